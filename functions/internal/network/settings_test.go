package network

import (
	"strings"
	"testing"
)

func TestCheckEnvironment(t *testing.T) {
	const proxies, noProxy = "HTTPS_PROXY https_proxy HTTP_PROXY http_proxy", "NO_PROXY no_proxy"
	const container = "AWS_CONTAINER_CREDENTIALS_FULL_URI AWS_EC2_METADATA_SERVICE_ENDPOINT"
	const endpoints = "AWS_ENDPOINT_URL AWS_ENDPOINT_URL_SECRETS_MANAGER AWS_ENDPOINT_URL_SSM AWS_ENDPOINT_URL_EVENTBRIDGE AWS_ENDPOINT_URL_STS AWS_ENDPOINT_URL_SSO AWS_ENDPOINT_URL_SSO_OIDC"
	const credentials = "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN"
	for _, test := range []struct{ names, value, says string }{
		{credentials, "", ""},
		{credentials, "IQoJb3JpZ2luX2VjEAab/+==", ""},
		{credentials, "password\r", "no AWS credential has"},
		{credentials, `"password"`, "no AWS credential has"},
		{credentials, "'password'", "no AWS credential has"},
		{credentials, "password\u00a0", "no AWS credential has"},
		{credentials, "pass word", "no AWS credential has"},
		{proxies, "", ""},
		{proxies, "http://proxy.test:3128", ""},
		{proxies, "http://user:p%40ss@proxy.test:3128/", ""},
		{proxies, "https://proxy.test", ""},
		{proxies, "socks5://127.0.0.1:1080", ""},
		{proxies, "proxy.test:3128", ""},
		{proxies, "user:password@proxy.test:3128", ""},
		{proxies, "[::1]:3128", ""},
		{proxies, "http://[::1", "not a proxy's URL"},
		{proxies, "http://user:pa%ss@proxy.test", "not a proxy's URL"},
		{proxies, " http://proxy.test", "not a proxy's URL"},
		{proxies, "http://proxy.test:port", "not a proxy's URL"},
		{proxies, "http://proxy test", "not a proxy's URL"},
		{proxies, "http://", "not a proxy's URL"},
		{proxies, "://password", "not a proxy's URL"},
		{proxies, "password\n", "not a proxy's URL"},
		{proxies, "http://proxy.test,password.test", "not a proxy's URL"},
		{proxies, "http://proxy.test:70000", "port"},
		{proxies, "http://proxy.test:0", "port"},
		{proxies, "ftp://password@proxy.test", "scheme"},
		{proxies, "htp://proxy.test:3128", "scheme"},
		{proxies, "http://proxy.test/password", "more than"},
		{proxies, "http://proxy.test?password", "more than"},
		{noProxy, "", ""},
		{noProxy, "*", ""},
		{noProxy, "localhost, 127.0.0.1,.svc,*.example.test,10.0.0.0/8,fd00::/8,::1,[::1]:443,host.test:8443,under_score", ""},
		{noProxy, "https://password.test", "separate"},
		{noProxy, "a.test b.test", "separate"},
		{noProxy, "10.0.0.0/33", "separate"},
		{noProxy, "a.test;b.test", "separate"},
		{noProxy, "a.test:https", "separate"},
		{noProxy, "a.*.test", "separate"},
		{noProxy, "user@a.test", "separate"},
		{endpoints, "", ""},
		{endpoints, "https://vpce-1.secretsmanager.eu-central-1.vpce.amazonaws.com", ""},
		{endpoints, "http://127.0.0.1:5000", ""},
		{endpoints, "http://[::1]:5000", ""},
		{endpoints, "HTTP://LOCALHOST:5000", ""},
		{endpoints, "http://password.test", "in the clear"},
		{endpoints, "http://localhost.password.test", "in the clear"},
		{endpoints, "http://169.254.170.2", "in the clear"},
		{endpoints, "http://127.0.0.1@password.test", "in the clear"},
		{endpoints, "ftp://127.0.0.1", "in the clear"},
		{endpoints, "password", "not a URL"},
		{endpoints, "https://", "not a URL"},
		{endpoints, "://", "not a URL"},
		{container, "http://169.254.170.2/v2", ""},
		{container, "http://169.254.170.23/v1/credentials", ""},
		{container, "http://[fd00:ec2::23]/v1", ""},
		{container, "http://127.0.0.1:8080/x", ""},
		{container, "https://anywhere.test/x", ""},
		{container, "http://password.test/x", "in the clear"},
		{container, "http://169.254.169.254/", ""},
		{container, "http://169.254.169.253/", "in the clear"},
		{container, "ftp://169.254.170.2/", "in the clear"},
		{container, "://", "not a URL"},
		{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/1", ""},
		{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "@password.test/", "not a path"},
		{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", ".password.test/", "not a path"},
		{"AWS_REGION ALL_PROXY AWS_ENDPOINT_URL_S3", "http://elsewhere.test", ""},
	} {
		for _, name := range strings.Fields(test.names) {
			faults := CheckEnvironment([]string{"HOME=/", name + "=" + test.value})
			switch {
			case test.says == "" && len(faults) > 0:
				t.Errorf("%s=%q: got %v, want no fault", name, test.value, faults)
			case test.says == "":
			case len(faults) != 1 || faults[0].Name != name || !strings.Contains(faults[0].Problem, test.says):
				t.Errorf("%s=%q: got %v, want a fault that says %q", name, test.value, faults, test.says)
			case strings.Contains(faults[0].Problem, "password"):
				t.Errorf("%s=%q: the fault repeats the value", name, test.value)
			}
		}
	}
}
