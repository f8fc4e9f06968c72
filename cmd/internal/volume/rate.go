package volume

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/robib-ublk/robib/mirror"
)

// rateUnits of ParseRate, the longer ones first. Networks are sold in bits and powers of ten.
var rateUnits = []struct {
	name  string
	bytes float64
}{
	{"kbit", 1e3 / 8}, {"mbit", 1e6 / 8}, {"gbit", 1e9 / 8},
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30},
	{"k", 1 << 10}, {"m", 1 << 20}, {"g", 1 << 30}, {"b", 1}, {"", 1},
}

// ParseRate reads a number of bytes per second: 10M (MiB), 500K, 1.5G, 100mbit; off is 0.
func ParseRate(text string) (int64, error) {
	s := strings.TrimSuffix(strings.ToLower(text), "/s")
	if s == "off" {
		return 0, nil
	}
	for _, u := range rateUnits {
		n, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		f, err := strconv.ParseFloat(n, 64)
		if err != nil || math.IsNaN(f) || n[0] < '0' || n[0] > '9' || strings.ContainsAny(n, "xpe_") {
			break
		}
		if f *= u.bytes; f < mirror.MinRateLimit || f > 1e15 {
			return 0, fmt.Errorf("%q: at least %dK, or off", text, mirror.MinRateLimit>>10)
		}
		return int64(f), nil
	}
	return 0, fmt.Errorf("%q: bytes per second, such as 10M, 500K or 100mbit, or off", text)
}

// rateText is what ParseRate reads back.
func rateText(n int64) string {
	switch {
	case n == 0:
		return "off"
	case n%(1<<20) == 0:
		return fmt.Sprintf("%dM", n>>20)
	case n%(1<<10) == 0:
		return fmt.Sprintf("%dK", n>>10)
	}
	return strconv.FormatInt(n, 10)
}
