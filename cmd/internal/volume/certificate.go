package volume

import (
	"fmt"
	"time"
)

// certificateNotice is how long before its end a certificate is spoken of.
const certificateNotice = 30 * 24 * time.Hour

// alarm says that a machine was refused because its certificate's time is over. Any goroutine.
func (k *stack) alarm(host string, err error) {
	k.s.changes.say("%s: %s was refused: %v", k.s.conf().Name, host, err)
}

// certificateEnd is when this machine's certificate by an authority ends; nil: it has none, or no peer to show it to.
// Any goroutine.
func (n *network) certificateEnd() *time.Time {
	if n == nil {
		return nil
	}
	c := n.key.Certificate()
	if c == nil {
		return nil
	}
	end := c.NotAfter.UTC()
	return &end
}

// CertificateWarning is what there is to say of a certificate that ends then, or "".
func CertificateWarning(end *time.Time, now time.Time) string {
	switch {
	case end == nil || end.Sub(now) > certificateNotice:
		return ""
	case now.After(*end):
		return fmt.Sprintf("EXPIRED on %s: no new session can be made but with a machine that has pinned this one's key; renew it (`robib-ublk key certify`)", end.Format(time.DateTime))
	}
	return fmt.Sprintf("expires on %s: then no new session can be made; renew it (`robib-ublk key certify`)", end.Format(time.DateTime))
}
