package network

import (
	"strings"
	"testing"
)

func TestCheckEnvironment(t *testing.T) {
	for _, test := range []struct {
		names, says string // what the fault says; empty: there is none
		values      []string
	}{
		{checks[0].names, "", []string{"", "http://proxy.test:3128", "http://user:p%40ss@proxy.test:3128/", "https://proxy.test", "socks5://127.0.0.1:1080",
			"proxy.test:3128", "user:password@proxy.test:3128", "[::1]:3128"}},
		{checks[0].names, "not a proxy's URL", []string{"http://[::1", "http://user:pa%ss@proxy.test", " http://proxy.test", "http://proxy.test:port", "http://proxy test",
			"http://", "://password", "password\n", "http://proxy.test,password.test"}},
		{checks[0].names, "port", []string{"http://proxy.test:70000", "http://proxy.test:0"}},
		{checks[0].names, "scheme", []string{"ftp://password@proxy.test", "htp://proxy.test:3128"}},
		{checks[0].names, "more than", []string{"http://proxy.test/password", "http://proxy.test?password"}},
		{checks[1].names, "", []string{"", "*", "localhost, 127.0.0.1,.svc,*.example.test,10.0.0.0/8,fd00::/8,::1,[::1],[::1]:443,10.0.0.1:80,host.test:8443,under_score"}},
		{checks[1].names, "separate", []string{"https://password.test", "a.test b.test", "10.0.0.0/33", "a.test;b.test", "a.test:https", "a.*.test", "user@a.test",
			"fe80::1%eth0/64", "[::1%eth0/64]:80", "10.0.0.1:0", "[::1]:0", "[::1]:x", "."}},
		{checks[2].names, "", []string{"http://169.254.170.2/v2", "http://169.254.170.23/v1/credentials", "http://[fd00:ec2::23]/v1", "http://127.0.0.1:8080/x",
			"https://anywhere.test/x", "http://169.254.169.254/"}},
		{checks[2].names, "in the clear", []string{"http://password.test/x", "http://169.254.169.253/", "ftp://169.254.170.2/"}},
		{checks[2].names, "not a URL", []string{"://"}},
		{checks[3].names, "", []string{"/v2/credentials/1"}},
		{checks[3].names, "not a path", []string{"@password.test/", ".password.test/"}},
		{checks[4].names, "", []string{"", "IQoJb3JpZ2luX2VjEAab/+=="}},
		{checks[4].names, "no AWS credential has", []string{"password\r", `"password"`, "'password'", "password\u00a0", "pass word"}},
		{checks[5].names, "", []string{"", "https://vpce-1.secretsmanager.eu-central-1.vpce.amazonaws.com", "http://127.0.0.1:5000", "http://[::1]:5000", "HTTP://LOCALHOST:5000"}},
		{checks[5].names, "in the clear", []string{"http://password.test", "http://localhost.password.test", "http://169.254.170.2", "http://127.0.0.1@password.test", "ftp://127.0.0.1"}},
		{checks[5].names, "not a URL", []string{"password", "https://", "://"}},
		{"AWS_REGION ALL_PROXY AWS_ENDPOINT_URL_S3", "", []string{"http://elsewhere.test"}},
	} {
		for _, name := range strings.Fields(test.names) {
			for _, value := range test.values {
				faults := CheckEnvironment([]string{"HOME=/", name + "=" + value})
				switch {
				case test.says == "" && len(faults) > 0:
					t.Errorf("%s=%q: got %v, want no fault", name, value, faults)
				case test.says == "":
				case len(faults) != 1 || faults[0].Name != name || !strings.Contains(faults[0].Problem, test.says) || strings.Contains(faults[0].Problem, "password"):
					t.Errorf("%s=%q: got %v, want a fault that says %q and does not repeat the value", name, value, faults, test.says)
				}
			}
		}
	}
}
