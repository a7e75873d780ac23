// Package awstest stands for the parts of AWS that a deployment meets. moto_server, a program of its
// own, keeps everything in memory and enforces no permissions; [Lambda] adds what it lacks: to run a
// function. Only tests and the sandbox command use it.
//
//	moto := awstest.Start(t)                                 // ends with the test
//	env := awstest.Environment(moto.URL())                   // for the aws CLI, an SDK, the function
//	server := httptest.NewServer(&awstest.Lambda{Moto: moto, Program: invoke})
//
// Whoever has no test starts it with [StartMoto].
package awstest
