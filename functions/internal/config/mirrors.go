package config

import (
	"fmt"

	"iam-token-rotator/functions/internal/rotation"
)

// checkMirrors sees to it that every mirror is the ARN of an AWS secret that
// nothing else is kept in. No fault repeats a value that is none.
func (v variables) checkMirrors(faults *faults, rotations []rotation.Rotation) {
	taken := map[string]string{}
	if v.APIKeyARN != "" {
		taken[v.APIKeyARN] = "the bootstrap API key's, SECRETS_MANAGER_APIKEY_ARN"
	}
	for _, r := range rotations {
		for i, arn := range r.Mirror {
			where := fmt.Sprintf("rotation %s mirror[%d]", r.Name, i)
			owner, isTaken := taken[arn]
			switch {
			case !secretARNShape.MatchString(arn):
				faults.add(where, "is not the ARN of an AWS Secrets Manager secret")
			case isTaken:
				faults.add(where, "is %s: each copy needs a secret of its own", owner)
			}
			taken[arn] = fmt.Sprintf("rotation %q's", r.Name)
		}
	}
}
