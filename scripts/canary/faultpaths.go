package main

import (
	"fmt"
	"strings"

	"iam-token-rotator/functions/ibmcloudtest"
)

// subjects are the programs that every fault is put before. bare is what a program needs to get to all its operations.
func subjects() []subject {
	return []subject{
		command, lambda,
		command.with("ensure", nil, "-mode", "ensure", "-json"),
		command.named("by profile", functionByProfile),
		command.with("doctor", nil, "doctor"),
		iamToken, iamToken.with("--check", nil, "--check"),
		setUpSecrets,
	}
}

// calm runs every program without a fault.
func calm() []path {
	var all []path
	for _, sub := range append(subjects(), putBootstrapKey, command.named("on AWS", functionOnAWS), command.named("mirrored", functionMirrored)) {
		all = append(all, path{subject: sub, how: "without a fault"})
	}
	return all
}

// scripted tells the shell scripts apart: they wait 20 seconds for an answer, and start some thirty programs each.
func scripted(sub subject) bool {
	return sub.command(tools{})[0] != command.command(tools{})[0] && sub.name != lambda.name
}

// faultPaths put every fault before every operation that the program was seen to make.
func faultPaths(sub subject, made []operation) []path {
	var all []path
	for _, at := range made {
		for i, named := range faultMatrix() {
			if scripted(sub) && named.fault.Delay > 0 || i%stride(sub) != 0 {
				continue
			}
			fault := named.fault
			fault.Op, fault.Identity = at.op, at.identity
			p := path{subject: sub, faults: []ibmcloudtest.Fault{fault}, http1: named.http1}
			p.how = fmt.Sprintf("%s of %s meets %s", at.op, at.identity, named.name)
			all = append(all, p)
		}
	}
	return all
}

// stride is which faults of the matrix a program meets: the command and the Lambda function all, the others, which take
// long or do the same in part, every third.
func stride(sub subject) int {
	if sub.name == command.name || sub.name == lambda.name {
		return 1
	}
	return 3
}

// awsPaths put the faults before AWS Secrets Manager.
func awsPaths() []path {
	subjects := []subject{
		command.named("on AWS", functionOnAWS), lambda.named("on AWS", functionOnAWS),
		command.named("mirrored", functionMirrored), lambda.named("mirrored", functionMirrored),
	}
	var all []path
	for i, named := range faultMatrix() {
		if named.fault.Status == 0 {
			continue // the stand-in for AWS can only answer
		}
		for j, sub := range subjects[i%2*2 : i%2*2+2] {
			for op := range inOrder(awsAnswers) {
				p := path{subject: sub, how: op + " meets " + named.name, awsOp: op, aws: &named.fault, http1: named.http1 != (j == 1)}
				if p.fits() {
					all = append(all, p)
				}
			}
		}
	}
	return all
}

// fits is whether the program makes the call to AWS that is to fail, and over a connection that can fail so.
func (p path) fits() bool {
	mirrored := strings.Contains(p.subject.name, "mirrored")
	return (mirrored || p.awsOp == awsRead) && (p.http1 || p.aws.Headers[rawHeader] == "")
}
