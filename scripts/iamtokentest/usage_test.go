package iamtokentest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/programs"
)

func wantSaid(t *testing.T, name, stderr, advice string) {
	t.Helper()
	if !strings.Contains(stderr, advice) {
		t.Errorf("%s: got stderr %q, want it to say %q", name, stderr, advice)
	}
}

func TestUsage(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		for _, args := range [][]string{
			{"--format"}, {"--format", "jwt"}, {"--min-ttl", "5x"}, {"--min-ttl", ""}, {"--min-ttl", "1h"}, {"--wait", "soon"},
			{"--frobnicate"}, {"-x"}, {"one", "two"},
		} {
			s.wantFailure(2, args, "iam-token -h")
		}
		if requests := s.cloud.Requests(); len(requests) != 0 {
			s.t.Errorf("got %d requests, want none", len(requests))
		}
		s.wantFailure(2, []string{"--format", "raw", "--frobnicate", "x"}, "argument 3 is no option")
		s.env["PATH"] = s.bin // without curl and jq
		if err := os.Symlink(programs.Path(s.t, "cat"), filepath.Join(s.bin, "cat")); err != nil {
			s.t.Fatal(err)
		}
		stdout, stderr, exit := s.iamToken("-h")
		if exit != 0 || stderr != "" || !strings.HasPrefix(stdout, "Usage: iam-token ") {
			s.t.Errorf("-h: got exit %d, stderr %q, stdout %.40q", exit, stderr, stdout)
		}
	})
}

func TestSettings(t *testing.T) {
	for name, test := range map[string]struct {
		set    map[string]string
		advice string
	}{
		"no identity":              {map[string]string{"READER_APIKEY": ""}, "exactly one of"},
		"the rotator's own key":    {map[string]string{"READER_APIKEY": "", "SECRETS_MANAGER_APIKEY": "key"}, "exactly one of"},
		"a token for other things": {map[string]string{"READER_APIKEY": "", "IAM_TOKEN": "Bearer x"}, "exactly one of"},
		"two identities":           {map[string]string{"IAM_PROFILE_NAME": "reader"}, "(2 are set)"},
		"no instance":              {map[string]string{"SECRETS_MANAGER_URL": ""}, "SECRETS_MANAGER_URL is not set"},
		"http":                     {map[string]string{"SECRETS_MANAGER_URL": "http://10.0.0.1"}, "https://"},
		"http, disguised":          {map[string]string{"SECRETS_MANAGER_URL": "http://localhost:80@example.com"}, "origin"},
		"a path":                   {map[string]string{"IAM_URL": "https://iam.cloud.ibm.com/identity/token"}, "origin"},
		"no secret":                {map[string]string{"TOKEN_SECRET": ""}, "TOKEN_SECRET"},
		"a key of two lines":       {map[string]string{"READER_APIKEY": "one\ntwo"}, "READER_APIKEY holds no"},
		"no file":                  {map[string]string{"READER_APIKEY": "", "READER_APIKEY_FILE": "/nonexistent"}, "READER_APIKEY_FILE cannot be read"},
		"no compute resource":      {map[string]string{"READER_APIKEY": "", "IAM_PROFILE_NAME": "reader", "CR_TOKEN_FILENAME": "/nonexistent"}, "CR_TOKEN_FILENAME"},
		"no ARN":                   {map[string]string{"READER_APIKEY": "", "TOKEN_SECRET_ARN": "iam-token"}, "TOKEN_SECRET_ARN"},
	} {
		t.Run(name, func(t *testing.T) {
			underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
				for variable, value := range test.set {
					s.env[variable] = value
				}
				s.wantFailure(2, nil, test.advice)
			})
		})
	}
}

func TestIdentities(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		token := s.publish(time.Hour)
		key := s.cloud.ReaderAPIKey()
		file := func(name, content string) string {
			path := filepath.Join(s.t.TempDir(), name)
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				s.t.Fatal(err)
			}
			return path
		}
		for name, identity := range map[string]map[string]string{
			"a key with a newline": {"READER_APIKEY": key + "\n"},
			"a file":               {"READER_APIKEY_FILE": file("key", key+"\n")},
			"IBM's apikey.json":    {"READER_APIKEY_FILE": file("apikey.json", `{"name":"reader","apikey":"`+key+`"}`)},
			"a token":              {"READER_IAM_TOKEN": "Bearer " + s.cloud.MustMintToken(key, time.Hour)},
			"a bare token":         {"READER_IAM_TOKEN": s.cloud.MustMintToken(key, time.Hour)},
		} {
			delete(s.env, "READER_APIKEY")
			for variable, value := range identity {
				s.env[variable] = value
			}
			s.wantRaw(name, token)
			for variable := range identity {
				delete(s.env, variable)
			}
		}
		// The sandbox's profile is the rotator's own, which may not read the token: that it
		// is told so, as that profile, shows that the exchange went well.
		s.env["CR_TOKEN_FILENAME"] = file("cr-token", "compute-resource-token\n")
		for name, value := range map[string]string{"IAM_PROFILE_NAME": ibmcloudtest.ProfileName, "IAM_PROFILE_ID": s.cloud.ProfileID()} {
			s.env[name] = value
			s.wantFailure(1, nil, "the identity of "+name+" may not read")
			delete(s.env, name)
		}
	})
}

func TestRefusedIdentities(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		s.publish(time.Hour)
		s.env["READER_APIKEY"] = "a-key-that-nobody-knows"
		s.wantFailure(1, nil, "IAM does not take READER_APIKEY (HTTP 400, BXNIM0415E)")
		delete(s.env, "READER_APIKEY")
		s.env["READER_IAM_TOKEN"] = s.cloud.MustMintToken(s.cloud.ReaderAPIKey(), -time.Minute)
		s.wantFailure(1, nil, "does not take the token of READER_IAM_TOKEN")
	})
}
