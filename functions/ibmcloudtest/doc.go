// Package ibmcloudtest is a stateful stand-in for the parts of IBM Cloud that a token rotation
// meets: IAM's token endpoint, Secrets Manager v2 and Logs Routing.
//
// It is an independent reading of IBM's published contract: it imports neither IBM's SDK nor any
// other package of this module, so it can catch both out. Tokens are real RS256 JWTs, identities
// are enforced (401, 403), secrets keep versions and locks, and any operation can be made to fail.
//
//	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
//	client := &http.Client{Transport: cloud.Transport()} // in process; or httptest.NewServer(cloud)
//	cloud.AddFault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Times: 2, Status: 503})
//
// What IBM does not document is listed in [Undocumented] and can be switched.
package ibmcloudtest
