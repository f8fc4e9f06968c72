package volume

import (
	"strings"
	"testing"
	"time"
)

// A certificate is spoken of in time, and when its time is over.
func TestCertificateWarning(t *testing.T) {
	now := time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC)
	for _, r := range []struct {
		in   time.Duration
		want string
	}{{31 * 24 * time.Hour, ""}, {29 * 24 * time.Hour, "expires on 2030-03-01 12:00:00: then"}, {-time.Second, "EXPIRED on 2030-01-31 11:59:59: no new session"}} {
		end := now.Add(r.in)
		if got := CertificateWarning(&end, now); !strings.HasPrefix(got, r.want) || (got == "") != (r.want == "") {
			t.Errorf("%v before its end: %q", r.in, got)
		}
	}
	if got := CertificateWarning(nil, now); got != "" {
		t.Errorf("without one: %q", got)
	}
}
