package main

import (
	"fmt"
	"io"
	"net/http/httptest"

	"iam-token-rotator/functions/ibmcloudtest"
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

// failAWS makes fault the answer to a call to AWS Secrets Manager.
func (d *door) failAWS(call string, fault *ibmcloudtest.Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.awsOp, d.aws = call, fault
}

// awsFault is what a call meets, nil if nothing.
func (d *door) awsFault(call string) *ibmcloudtest.Fault {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.awsOp != call {
		return nil
	}
	return d.aws
}

// answerAsAWS answers a call to AWS Secrets Manager, or fails as the path wants.
func (d *door) answerAsAWS(w *httptest.ResponseRecorder, call string) {
	fault := d.awsFault(call)
	if fault == nil {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		answer := awsAnswers[call]
		if call == awsRead {
			answer = fmt.Sprintf(answer, d.bootstrapKey)
		}
		_, _ = io.WriteString(w, answer)
		return
	}
	w.Header().Set("Content-Type", fault.ContentType)
	for name, value := range fault.Headers {
		w.Header().Set(name, value)
	}
	w.WriteHeader(fault.Status)
	_, _ = io.WriteString(w, fault.Body)
}
