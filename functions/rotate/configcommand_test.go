package main

import "testing"

// A deployment asks with it whether a list will do, so it must say what the function
// would say, and be as quick: it asks nobody.
func TestConfigCommand(t *testing.T) {
	cloud, origin := newCloud(t)
	good := environ(cloud, origin)
	cloud.ClearRequests()
	for _, test := range []commandCase{
		{"valid", nil, good, 0, []string{"valid: 1 rotation\n"}, ""},
		{"faulty", nil, environ(cloud, origin, "IAM_URL=http://iam.cloud.ibm.com", "TOKEN_SECRET=x"), 2, nil,
			"bootstrap: IAM_URL: must begin with https://"},
		{"the second fault, too", nil, environ(cloud, origin, "IAM_URL=http://iam.cloud.ibm.com", "TOKEN_SECRET=x"), 2, nil,
			"\nbootstrap: TOKEN_SECRET: is no secret id"},
		{"help", []string{"-h"}, nil, 0, []string{"Usage: bootstrap config"}, ""},
		{"stray argument", []string{"now"}, good, 2, nil, `unexpected argument "now"`},
	} {
		test.args = append([]string{"config"}, test.args...)
		t.Run(test.name, test.check)
	}
	if got := cloud.Requests(); len(got) > 0 {
		t.Errorf("got %d requests, want none", len(got))
	}
}
