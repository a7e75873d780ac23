package aws_test

import (
	"encoding/xml"

	"iam-token-rotator/infra/aws/awstest"
)

func (a *account) putObject(key string) {
	a.t.Helper()
	if status, answer := a.moto.MustDo(a.t, awstest.Request{Service: "s3", Method: "PUT", Path: "/" + a.bucket + "/" + key, Body: "x"}); status != 200 {
		a.t.Fatalf("putting %s: %d %s", key, status, answer)
	}
}

// objects lists the bucket.
func (a *account) objects() []string {
	a.t.Helper()
	var answer struct {
		Contents []struct{ Key string }
	}
	status, body := a.moto.MustDo(a.t, awstest.Request{Service: "s3", Method: "GET", Path: "/" + a.bucket + "?list-type=2"})
	if err := xml.Unmarshal(body, &answer); err != nil || status != 200 {
		a.t.Fatalf("listing the bucket: %d %v", status, err)
	}
	var keys []string
	for _, object := range answer.Contents {
		keys = append(keys, object.Key)
	}
	return keys
}
