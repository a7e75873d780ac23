package ibmcloud

import (
	"errors"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"iam-token-rotator/functions/iamtoken"
)

// claims are the parts of an IAM token's JWT that tell whose it is and until when.
type claims struct {
	jwt.RegisteredClaims
	IAMID   string `json:"iam_id"`
	Account struct {
		BSS string `json:"bss"`
	} `json:"account"`
}

// maxLife is well above the 60 minutes that IAM gives a token, whatever the
// clocks: an expiration beyond it is in another unit, or forged.
const maxLife = 24 * time.Hour

// complete adds to token what its JWT tells. The signature is not checked: the
// token came from IAM itself over TLS, and services check it when it is used.
// Where IAM's answer and the JWT disagree the earlier expiration counts.
func complete(token iamtoken.Token, now time.Time) (iamtoken.Token, error) {
	token.IssuedAt = now.Truncate(time.Second)
	var told claims
	_, _, err := jwt.NewParser().ParseUnverified(token.Value.Reveal(), &told)
	if err == nil || errors.Is(err, jwt.ErrTokenUnverifiable) { // an algorithm that the library does not know
		token.IAMID, token.Account = iamtoken.Identity(told.IAMID, told.Account.BSS)
		if told.IssuedAt != nil {
			token.IssuedAt = told.IssuedAt.Time
		}
		if told.ExpiresAt != nil && (token.Expiration.Unix() <= 0 || told.ExpiresAt.Before(token.Expiration)) {
			token.Expiration = told.ExpiresAt.Time
		}
	}
	if token.Expiration.Unix() <= 0 || token.Expiration.Sub(token.IssuedAt) > maxLife {
		return iamtoken.Token{}, errors.New("with a token that has no expiration, or one that no token can have")
	}
	// Of an old token IAM may tell what is left of it, not how long it was made for.
	token.ExpiresIn = max(token.ExpiresIn, token.Expiration.Sub(token.IssuedAt))
	return token, nil
}
