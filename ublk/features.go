package ublk

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Feature names one bit that the driver may offer.
type Feature struct {
	Bit   uint64 `json:"-"`
	Name  string `json:"name"`
	Since string `json:"since"` // first kernel
	Used  bool   `json:"used"`  // we need it
}

// Features in the order of their bits.
var Features = []Feature{
	{FeatSupportZeroCopy, "SUPPORT_ZERO_COPY", "6.15", false},
	{FeatURingCmdInTask, "URING_CMD_COMP_IN_TASK", "6.0", false},
	{FeatNeedGetData, "NEED_GET_DATA", "6.0", false},
	{FeatUserRecovery, "USER_RECOVERY", "6.1", true},
	{FeatRecoveryReissue, "USER_RECOVERY_REISSUE", "6.1", true},
	{FeatUnprivileged, "UNPRIVILEGED_DEV", "6.3", false},
	{FeatIoctlEncode, "CMD_IOCTL_ENCODE", "6.4", true},
	{FeatUserCopy, "USER_COPY", "6.5", false},
	{FeatZoned, "ZONED", "6.6", false},
	{FeatRecoveryFailIO, "USER_RECOVERY_FAIL_IO", "6.13", false},
	{FeatUpdateSize, "UPDATE_SIZE", "6.16", false},
	{FeatAutoBufReg, "AUTO_BUF_REG", "6.16", false},
	{FeatQuiesce, "QUIESCE", "6.16", false},
	{FeatPerIODaemon, "PER_IO_DAEMON", "6.16", false},
	{FeatBufRegOffDaemon, "BUF_REG_OFF_DAEMON", "6.17", false},
	{FeatBatchIO, "BATCH_IO", "7.0", false},
	{FeatIntegrity, "INTEGRITY", "7.0", false},
	{FeatSafeStop, "SAFE_STOP_DEV", "7.0", false},
	{FeatNoAutoPartScan, "NO_AUTO_PART_SCAN", "7.0", false},
	{FeatShmemZeroCopy, "SHMEM_ZC", "7.2", false},
	{FeatIODescSize, "IO_DESC_SIZE", "7.3", false},
}

// FeatureError names features that this kernel's driver lacks.
type FeatureError struct{ Missing uint64 }

func (e *FeatureError) Error() string {
	var s []string
	for _, f := range Features {
		if e.Missing&f.Bit != 0 {
			s = append(s, fmt.Sprintf("%s (since Linux %s)", f.Name, f.Since))
		}
	}
	return "this kernel's ublk driver lacks " + strings.Join(s, ", ")
}

// Features asks the driver for its feature bits (Linux 6.5 and newer).
func (c *Control) Features() (uint64, error) {
	out, err := c.command("get features", cmdGetFeatures, -1, 0, make([]byte, 8), 0)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(out), nil
}
