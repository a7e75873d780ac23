package iamtoken

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// DefaultField is the entry of a kv secret that holds the token, unless the
// rotation names another.
const DefaultField = "iam_token"

// tokenShape is RFC 6750's for what may follow "Bearer".
var tokenShape = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// unpack finds the bare token in a payload, or in the data of a kv secret, and
// the expiration that stands beside it in epoch seconds, 0 when there is none.
// Of an object with several entries it takes one by name only.
func unpack(payload string) (token string, expiration int64, err error) {
	payload = strings.TrimSpace(payload)
	if payload == "" {
		return "", 0, noToken("the secret is empty")
	}
	if strings.HasPrefix(payload, "{") {
		return unpackObject(payload)
	}
	token = TrimBearer(payload)
	if !tokenShape.MatchString(token) || strings.EqualFold(token, "Bearer") {
		return "", 0, noToken("the secret holds something that is no token: has the rotator run, and is it the right secret?")
	}
	return token, 0, nil
}

func unpackObject(payload string) (string, int64, error) {
	var object map[string]any
	if err := json.Unmarshal([]byte(payload), &object); err != nil {
		return "", 0, noToken("the secret holds broken JSON")
	}
	if token, ok := object["access_token"].(string); ok {
		expiration, _ := object["expiration"].(float64)
		bare, _, err := unpack(token)
		return bare, int64(expiration), err
	}
	if token, ok := object[DefaultField].(string); ok {
		return unpack(token)
	}
	for _, only := range object {
		if token, ok := only.(string); ok && len(object) == 1 {
			return unpack(token)
		}
	}
	return "", 0, noToken("the secret holds JSON without access_token or iam_token, and more than one entry")
}

func noToken(why string) error { return fmt.Errorf("%w: %s", ErrNoToken, why) }

// claims are those that a token tells of itself. They are not verified: whoever
// may write the secret may write the token.
type claims struct {
	ExpiresAt float64 `json:"exp"`
	IssuedAt  float64 `json:"iat"`
	IAMID     string  `json:"iam_id"`
	Account   struct {
		BSS string `json:"bss"`
	} `json:"account"`
}

// readClaims reads a JWT; a token that is none tells nothing, as IBM documents
// tokens as opaque.
func readClaims(token string) claims {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims{}
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return claims{}
	}
	var c claims
	if json.Unmarshal(body, &c) != nil {
		return claims{}
	}
	return c
}
