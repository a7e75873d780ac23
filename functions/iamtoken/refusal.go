package iamtoken

import "strings"

// Refusal returns the cause and the advice for one of IAM's error codes, and two empty texts
// for any other code. credential names what was exchanged ("the API key in the key secret").
// setting names variables to check besides; it may be empty. No code says that a key is
// locked: IAM still gives tokens for a locked key.
//
// The rotator and [SecretsManager] share these texts; scripts/iam-token has a copy of them.
func Refusal(code, credential, setting string) (cause, help string) {
	if setting != "" {
		setting = " Check " + setting
	}
	fill := strings.NewReplacer("KEY", credential, "SETTING", setting)
	return fill.Replace(refusals[code][0]), strings.TrimSuffix(fill.Replace(refusals[code][1]), ".")
}

// refusals has the texts, with KEY and SETTING in place of what Refusal is given.
var refusals = map[string][2]string{
	"BXNIM0415E": {"KEY is not known to IAM. It was deleted, has expired or was made seconds ago", "replace it with a valid key"},
	"BXNIM0462E": {"KEY is disabled", "enable it, or replace it with another key"},
	"BXNIM0410E": {"KEY is of a user who has left the account", "replace it with a key of a service id or another user. A new key of the same user does not help"},
	"BXNIM0436E": {"KEY is of a user who is suspended",
		"have the account's administrator reactivate the user, or replace it with a key of a service id. A new key of the same user does not help"},
	"BXNIM0439E": {"the session or refresh token behind KEY is no longer valid", "log in again, or replace it with a key of a service id"},
	"BXNIM0408E": {"the session or refresh token behind KEY is no longer valid", "log in again, or replace it with a key of a service id"},
	"BXNIM0430E": {"requests from this IP address are not permitted",
		"add the address that they come from (a NAT gateway's, say) to the allowed IP addresses of the account or user. A new key does not help"},
	"BXNIM0398E": {"the trusted profile is not known, or its conditions do not fit this compute resource", "check IAM_PROFILE_NAME or IAM_PROFILE_ID, and the profile's conditions"},
	"BXNIM0407E": {"IAM says that KEY is an invalid token", "is it of this account, and still valid?SETTING"},
	"BXNIM0109E": {"a property is missing from the request", "is KEY empty, or does a proxy change the request?SETTING"},
	"BXNIM0106E": {"IAM does not accept the value of a property of the request", "check KEY.SETTING"},
}
