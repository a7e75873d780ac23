package main

import (
	"maps"
	"path/filepath"
	"slices"

	"iam-token-rotator/functions/ibmcloudtest"
)

// switches are variables with which somebody may hope to see more.
var switches = []map[string]string{
	{"LOG_LEVEL": "debug"}, {"LOG_LEVEL": "info"}, {"LOG_LEVEL": "warn"}, {"LOG_LEVEL": "error"}, {"LOG_LEVEL": "loud"}, {"LOG_LEVEL": ""},
	{"GODEBUG": "http2debug=1"}, {"GODEBUG": "http2debug=2"}, {"GODEBUG": "http2debug=2,http2client=1"}, {"GODEBUG": "http2client=0"},
	{"GODEBUG": "netdns=2,inittrace=1"}, {"GODEBUG": "gctrace=1,schedtrace=10,scheddetail=1"}, {"GODEBUG": "tlsrsakex=1,x509usepolicies=1"},
	{"GOTRACEBACK": "all"}, {"GOTRACEBACK": "crash"},
	{"DEBUG": "1", "TRACE": "1", "VERBOSE": "1", "IBMCLOUD_TRACE": "true", "BLUEMIX_TRACE": "true", "IBM_CLOUD_DEBUG": "true", "IBMCLOUD_LOG_LEVEL": "debug", "IBMCLOUD_SDK_LOG_LEVEL": "4", "IC_DEBUG": "1"},
	{"AWS_DEBUG": "1", "AWS_SDK_LOG_LEVEL": "debug", "AWS_LOG_LEVEL": "debug", "AWS_CLIENT_LOG_MODE": "request,response_with_body", "AWS_SDK_GO_LOG_LEVEL": "debug", "AWS_LAMBDA_LOG_LEVEL": "TRACE", "AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_XRAY_DEBUG_MODE": "TRUE", "AWS_ENABLE_ENDPOINT_DISCOVERY": "true"},
	{"IBM_CREDENTIALS_FILE": "ibm-credentials.env", "VCAP_SERVICES": "{}"},
	{"OTEL_LOG_LEVEL": "debug", "OTEL_TRACES_EXPORTER": "console", "GRPC_GO_LOG_SEVERITY_LEVEL": "info", "GRPC_TRACE": "all"},
	{"SSLKEYLOGFILE": "keys.log"}, {"CURL_HOME": ".", "CURL_VERBOSE": "1"}, {"SHELLOPTS": "xtrace"}, {"SHELLOPTS": "verbose:xtrace", "PS4": "+ $READER_APIKEY $IAM_TOKEN $key "},
	{"JQ_COLORS": "1", "POSIXLY_CORRECT": "1"},
}

// switchedOn runs every program under every switch, well and badly.
func switchedOn() []path {
	badly := []ibmcloudtest.Fault{{Op: ibmcloudtest.OpAny, Skip: 2, Status: 401, Body: mixed, Headers: headers}}
	everyProgram := []subject{command, lambda, command.named("on AWS", functionOnAWS), iamToken, putBootstrapKey, setUpSecrets}
	var all []path
	for _, sub := range everyProgram {
		for _, set := range switches {
			how := ""
			for _, name := range slices.Sorted(maps.Keys(set)) {
				how += " " + name + "=" + set[name]
			}
			env := func(*stage) map[string]string { return set }
			all = append(all, path{subject: sub, how: "with" + how, env: env},
				path{subject: sub, how: "failing with" + how, env: env, faults: badly})
		}
	}
	return all
}

// traced runs the scripts with the shell's own means of showing what they do.
func traced() []path {
	var all []path
	for _, sub := range []subject{iamToken, putBootstrapKey, setUpSecrets} {
		for _, shell := range [][]string{{"sh", "-x"}, {"sh", "-v"}, {"bash", "-x"}, {"bash", "--posix", "-xv"}} {
			all = append(all, path{subject: sub, how: "under " + shell[0] + " " + shell[len(shell)-1], before: shell})
		}
		all = append(all, path{subject: sub, how: "with SHELLOPTS under bash", before: []string{"env", "SHELLOPTS=xtrace", "bash"}})
	}
	return all
}

// proxied sends requests through a proxy whose URL bears a password.
func proxied() []path {
	var all []path
	for _, sub := range []subject{command, lambda, command.named("on AWS", functionOnAWS), iamToken, setUpSecrets} {
		for how, shape := range inOrder(proxyShapes) {
			all = append(all, setting(sub, how, func(s *stage) map[string]string {
				proxy := fill(shape, s.proxy, s.server.Listener.Addr().String())
				// Loopback is never proxied by Go; a name that stands for it is.
				return map[string]string{"HTTPS_PROXY": proxy, "https_proxy": proxy, "NO_PROXY": "",
					"SECRETS_MANAGER_URL": "https://instance.example.com", "IAM_URL": "https://iam.example.com"}
			}))
		}
	}
	return all
}

// filed puts secrets into the files of the AWS SDK, well and badly.
func filed() []path {
	var all []path
	for how, text := range inOrder(awsFileShapes) {
		all = append(all, path{subject: command.named("on AWS", functionOnAWS), how: "AWS files with " + how, env: func(s *stage) map[string]string {
			file := filepath.Join(s.out(), "config")
			writeOrPanic(file, fill(text, s.aws.secretKey, ""))
			return map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_CONFIG_FILE": file, "AWS_SHARED_CREDENTIALS_FILE": file}
		}})
	}
	return all
}
