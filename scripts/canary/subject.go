package main

import (
	"fmt"
	"maps"
	"path/filepath"
)

// subject is a program in the form in which people run it.
type subject struct {
	name    string
	command func(tools) []string
	// env holds the variables that the program needs, some of them secrets.
	env func(*stage) map[string]string
	// stdin is what it reads.
	stdin func(*stage) string
	// prints are the secrets that it is there to print, on stdout alone.
	prints func(*stage) []string
	// given is whether it is given a secret as an argument, against all advice.
	given bool
}

// tools are where the programs are.
type tools struct {
	bin     string // the built programs
	scripts string // the shell scripts
	noting  string // stands before PATH: programs that note how they were called
}

func (t tools) built(name string) string  { return filepath.Join(t.bin, name) }
func (t tools) script(name string) string { return filepath.Join(t.scripts, name) }

// with returns the same program in another environment, with more arguments.
func (sub subject) with(name string, more map[string]string, args ...string) subject {
	command, env := sub.command, sub.env
	sub.name += ", " + name
	sub.command = func(t tools) []string { return append(command(t), args...) }
	sub.env = func(s *stage) map[string]string {
		set := env(s)
		maps.Copy(set, more)
		return set
	}
	return sub
}

// function is the environment of the function: one rotation, and AWS credentials as Lambda has them.
func function(s *stage) map[string]string {
	only := s.cloud.Rotations()[0]
	return map[string]string{
		"SECRETS_MANAGER_URL": s.server.URL, "IAM_URL": s.server.URL, "SECRETS_MANAGER_APIKEY": s.cloud.BootstrapAPIKey(),
		"API_KEY_SECRET": only.APIKeySecret, "TOKEN_SECRET": only.TokenSecret, "LOG_LEVEL": "debug",
		"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": s.aws.secretKey, "AWS_SESSION_TOKEN": s.aws.sessionToken,
		"AWS_EC2_METADATA_DISABLED": "true",
	}
}

// functionOnAWS finds the bootstrap key in AWS Secrets Manager.
func functionOnAWS(s *stage) map[string]string {
	env := function(s)
	delete(env, "SECRETS_MANAGER_APIKEY")
	env["SECRETS_MANAGER_APIKEY_ARN"], env["AWS_ENDPOINT_URL_SECRETS_MANAGER"] = bootstrapARN, s.server.URL
	return env
}

// functionMirrored copies the token to an AWS secret.
func functionMirrored(s *stage) map[string]string {
	env, only := functionOnAWS(s), s.cloud.Rotations()[0]
	delete(env, "API_KEY_SECRET")
	delete(env, "TOKEN_SECRET")
	env["ROTATIONS"] = fmt.Sprintf(`[{"name":"mirrored","api_key_secret":%q,"token_secret":%q,"mirror":[%q]}]`, only.APIKeySecret, only.TokenSecret, mirrorARN)
	return env
}

// functionByProfile has no bootstrap key.
func functionByProfile(s *stage) map[string]string {
	env := function(s)
	delete(env, "SECRETS_MANAGER_APIKEY")
	env["IAM_PROFILE_NAME"], env["CR_TOKEN_FILENAME"] = "rotator-bootstrap", filepath.Join(s.out(), "cr-token")
	return env
}

// The function as a command and as AWS Lambda runs it.
var (
	command = subject{name: "command", env: function, command: func(t tools) []string {
		return []string{t.built("bootstrap"), "-timeout", "700ms"}
	}}
	lambda = subject{name: "lambda", env: function, command: func(t tools) []string {
		return []string{t.built("invoke"), "-timeout", "1s", "-report", "report.jsonl", "--", t.built("bootstrap")}
	}}
)

// named is the subject under another environment.
func (sub subject) named(name string, env func(*stage) map[string]string) subject {
	sub.name, sub.env = sub.name+", "+name, env
	return sub
}

// The scripts. put-bootstrap-key calls a stand-in for the aws program.
var (
	iamToken = subject{name: "iam-token", command: func(t tools) []string { return []string{t.script("iam-token")} },
		env: func(s *stage) map[string]string {
			return map[string]string{"SECRETS_MANAGER_URL": s.server.URL, "IAM_URL": s.server.URL,
				"READER_APIKEY": s.cloud.ReaderAPIKey(), "TOKEN_SECRET": s.cloud.Rotations()[0].TokenSecret}
		},
		prints: func(s *stage) []string { return []string{s.old} },
	}
	putBootstrapKey = subject{name: "put-bootstrap-key", command: func(t tools) []string { return []string{t.script("put-bootstrap-key")} },
		env:   func(s *stage) map[string]string { return awsVariables(s) },
		stdin: func(s *stage) string { return s.cloud.BootstrapAPIKey() },
	}
	setUpSecrets = subject{name: "set-up-secrets", env: setUpVariables, command: func(t tools) []string {
		return []string{t.script("set-up-secrets"), "--reader-key-file", "../out/reader.key"}
	}}
)

func awsVariables(s *stage) map[string]string {
	return map[string]string{"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
		"AWS_SECRET_ACCESS_KEY": s.aws.secretKey, "AWS_SESSION_TOKEN": s.aws.sessionToken}
}

func setUpVariables(s *stage) map[string]string {
	env := awsVariables(s)
	maps.Copy(env, map[string]string{
		"SECRETS_MANAGER_URL": s.server.URL, "IAM_URL": s.server.URL, "IAM_TOKEN": s.admin, "ACCOUNT_ID": s.cloud.AccountID(),
		"KEY_GROUP_ID": s.cloud.KeyGroupID(), "TOKEN_GROUP_ID": s.cloud.TokenGroupID(), "WORKLOAD_IAM_ID": s.cloud.Rotations()[0].IAMID,
		"BOOTSTRAP_IAM_ID": s.cloud.BootstrapIAMID(), "READER_IAM_ID": s.cloud.ReaderIAMID(), "CURL_RETRIES": "0",
	})
	return env
}
