// Package simulation plays the deployed system in virtual time: schedules,
// Lambda's processes, IBM Cloud and a reader who depends on the token, for a year
// and under faults of every kind. It runs the real rotation, the real IBM
// adapters and the real metrics against ibmcloudtest, and checks the promises of
// README.md. The naive way, a cron line with IBM's SDK, runs in parallel under
// the same faults.
//
// All of it is in test files, because testing/synctest needs them.
// `make simulate SEED=1 DAYS=365` runs it.
package simulation
