package main

import (
	"fmt"
	"io"
	"net/http/httptest"
)

// The AWS secrets of the bootstrap key and of the token's copy.
const (
	bootstrapARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:bootstrap-AbCdEf"
	mirrorARN    = "arn:aws:secretsmanager:us-east-1:123456789012:secret:mirror-AbCdEf"
)

// awsRead is the call that reads the bootstrap key.
const awsRead = "secretsmanager.GetSecretValue"

// awsAnswers are what AWS Secrets Manager answers; %q is the bootstrap key.
var awsAnswers = map[string]string{
	awsRead:                         `{"ARN":"` + bootstrapARN + `","Name":"bootstrap","SecretString":%q}`,
	"secretsmanager.DescribeSecret": `{"ARN":"` + mirrorARN + `","Name":"mirror","VersionIdsToStages":{}}`,
	"secretsmanager.PutSecretValue": `{"ARN":"` + mirrorARN + `","Name":"mirror","VersionStages":["AWSCURRENT"]}`,
}

// answerAsAWS answers a call to AWS Secrets Manager, or fails as the path wants.
func (d *door) answerAsAWS(w *httptest.ResponseRecorder, call string) {
	if d.aws == nil || d.awsOp != call {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		answer := awsAnswers[call]
		if call == awsRead {
			answer = fmt.Sprintf(answer, d.bootstrapKey)
		}
		_, _ = io.WriteString(w, answer)
		return
	}
	w.Header().Set("Content-Type", d.aws.ContentType)
	for name, value := range d.aws.Headers {
		w.Header().Set(name, value)
	}
	w.WriteHeader(d.aws.Status)
	_, _ = io.WriteString(w, d.aws.Body)
}
