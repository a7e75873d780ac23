package config

import (
	"regexp"
	"strings"

	"iam-token-rotator/functions/iamtoken"
)

// secretARNShape is the ARN of an AWS Secrets Manager secret.
var secretARNShape = regexp.MustCompile(`^arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:\S+$`)

// bootstrap picks the one way in that is configured. IAM_TOKEN counts only when
// no other is: people have it exported for other tools.
func (v variables) bootstrap(faults *faults) Bootstrap {
	var set []string
	for name, value := range map[string]string{
		"SECRETS_MANAGER_APIKEY": v.APIKey.Reveal(), "SECRETS_MANAGER_APIKEY_ARN": v.APIKeyARN,
		"IAM_PROFILE_NAME": v.ProfileName, "IAM_PROFILE_ID": v.ProfileID,
	} {
		if value != "" {
			set = append(set, name)
		}
	}
	const ways = "SECRETS_MANAGER_APIKEY, SECRETS_MANAGER_APIKEY_ARN, IAM_PROFILE_NAME or IAM_PROFILE_ID"
	switch {
	case len(set) > 1:
		faults.add("bootstrap identity", "%d of %s are set: set exactly one", len(set), ways)
	case len(set) == 0 && iamtoken.TrimBearer(v.Token.Reveal()) == "":
		faults.add("bootstrap identity", "is required: set one of %s (or IAM_TOKEN for a run by hand)", ways)
	case len(set) == 0:
		return Bootstrap{Token: oneWord(faults, "IAM_TOKEN", iamtoken.TrimBearer(v.Token.Reveal()))}
	}
	if v.APIKeyARN != "" && !secretARNShape.MatchString(v.APIKeyARN) {
		faults.add("SECRETS_MANAGER_APIKEY_ARN", "is not the ARN of an AWS Secrets Manager secret")
	}
	return Bootstrap{
		APIKey:          oneWord(faults, "SECRETS_MANAGER_APIKEY", v.APIKey.Reveal()),
		APIKeyARN:       v.APIKeyARN,
		ProfileName:     v.ProfileName,
		ProfileID:       v.ProfileID,
		CRTokenFilename: v.CRTokenFilename,
	}
}

// oneWord wraps value, which must be printable and without white space, braces
// and quotes.
func oneWord(faults *faults, name, value string) iamtoken.Secret {
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("{}\"'", r) }) {
		faults.add(name, "holds characters that no key or token has: set it to the bare value, without quotes or JSON")
	}
	return iamtoken.NewSecret(value)
}
