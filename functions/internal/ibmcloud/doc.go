// Package ibmcloud adapts IBM's SDKs to the rotation: IAM for the exchange,
// Secrets Manager for the key and the token, and the bootstrap identity that
// opens Secrets Manager.
//
// The SDKs are used for requests and types only. Their token cache, their
// retries, their own connection pools and their error texts are not: the cache
// hands out ageing tokens, the retries repeat a save whose answer was lost, and
// the texts repeat whatever a service answered.
package ibmcloud
