// Package iamtoken is the contract between the rotator, which keeps an IBM
// Cloud IAM access token in a secret, and the jobs that read that secret: the
// shape of the payload, the metadata that every version carries, and a [Reader]
// for jobs in Go.
//
// It imports nothing but the standard library, so that a job can depend on it
// without depending on the rotator or an SDK.
package iamtoken
