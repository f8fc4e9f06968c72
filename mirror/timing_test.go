package mirror

import "testing"

func TestCheckTiming(t *testing.T) {
	for _, x := range []struct {
		heartbeat, dead int64
		ok              bool
	}{
		{0, 0, true}, {second, 3 * second, true}, {MinHeartbeat, 3 * MinHeartbeat, true}, {MaxHeartbeat, MaxPeerDead, true}, {0, 3 * second, true}, {second, 0, true},
		{second, 3*second - 1, false}, {2 * second, 0, false}, {MinHeartbeat - 1, 0, false}, {MaxHeartbeat + 1, MaxPeerDead, false}, {0, MaxPeerDead + 1, false}, {-1, 0, false}, {0, -1, false},
	} {
		if err := CheckTiming(x.heartbeat, x.dead); (err == nil) != x.ok {
			t.Errorf("%d, %d: %v", x.heartbeat, x.dead, err)
		}
	}
}
