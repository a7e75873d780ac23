package doctor

import (
	"context"
)

// checkMirrors looks at the copies in AWS, which are reached whatever state IBM
// Cloud is in. Whether one may be written shows only when it is.
func (v *visit) checkMirrors(ctx context.Context, s *sheet) {
	for _, arn := range v.Mirror {
		current, err := try(ctx, v.limit, func(ctx context.Context) (string, error) { return v.Mirrors.Current(ctx, arn) })
		switch {
		case err != nil:
			s.failed(mirror, err)
		case v.stored.VersionID == "":
			s.ok(mirror, "%s can be looked at; not tried: secretsmanager:PutSecretValue", arn)
		case current != v.stored.VersionID && v.stored.ExpiresAt().IsZero():
			s.ok(mirror, "%s can be looked at and waits for the first token; not tried: secretsmanager:PutSecretValue", arn)
		case current != v.stored.VersionID:
			s.warn(mirror, arn+" does not hold the stored token: its readers have an older one, or none",
				"the next run copies it: bootstrap -rotation "+v.Name+"; if it cannot, its error says why")
		default:
			s.ok(mirror, "%s holds the stored token", arn)
		}
	}
}
