package serving

import (
	"net"
	"testing"
)

func TestOriginIsWhereAClientOnThisMachineFindsIt(t *testing.T) {
	for _, test := range []struct {
		ip     string
		secure bool
		want   string
	}{
		{"127.0.0.1", false, "http://127.0.0.1:8480"},
		{"0.0.0.0", true, "https://127.0.0.1:8480"},
		{"::", false, "http://127.0.0.1:8480"},
		{"::1", true, "https://[::1]:8480"},
	} {
		if got := Origin(&net.TCPAddr{IP: net.ParseIP(test.ip), Port: 8480}, test.secure); got != test.want {
			t.Errorf("%s: got %s, want %s", test.ip, got, test.want)
		}
	}
}
