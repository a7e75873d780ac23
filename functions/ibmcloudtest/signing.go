package ibmcloudtest

import (
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	signingKeyID = "20260101-0000"
	issuer       = "https://iam.cloud.ibm.com/identity"
)

var encode64 = base64.RawURLEncoding.EncodeToString

// keyPair is RSA with more than two primes: to make it takes a tenth of the time, and to sign with it a fifth.
// Its signatures are verified like any other. It protects nothing.
type keyPair struct {
	rsa.PublicKey
	factors []factor
}

// factor is one of the primes. To raise to the private exponent is, modulo the prime, to raise to power;
// coefficient puts the results together by the Chinese remainder theorem.
type factor struct{ prime, power, coefficient *big.Int }

// signingKey is IAM's, one for all clouds of the process.
var signingKey = sync.OnceValue(func() *keyPair {
	const bits, primes = 2048, 8
	key := &keyPair{rsa.PublicKey{N: big.NewInt(1), E: 65537}, make([]factor, primes)}
	for i := range key.factors {
		key.factors[i] = newFactor(bits/primes, key.E)
		key.N.Mul(key.N, key.factors[i].prime)
	}
	for i, f := range key.factors {
		others := new(big.Int).Div(key.N, f.prime)
		key.factors[i].coefficient = others.Mul(others, new(big.Int).ModInverse(others, f.prime))
	}
	return key
})

// newFactor has no coefficient yet. Its prime allows the public exponent, and is so large that the product of a few has all its bits.
func newFactor(bits uint, exponent int) factor {
	most, one := new(big.Int).Lsh(big.NewInt(1), bits), big.NewInt(1)
	for {
		below, err := rand.Int(rand.Reader, new(big.Int).Rsh(most, 6))
		must(err == nil, "making IAM's signing key: %v", err)
		prime := below.Sub(most, below)
		power := new(big.Int).ModInverse(big.NewInt(int64(exponent)), new(big.Int).Sub(prime, one))
		if power != nil && prime.ProbablyPrime(10) {
			return factor{prime: prime, power: power}
		}
	}
}

// sign is RSASSA-PKCS1-v1_5 of a SHA-256 digest.
func (k *keyPair) sign(digest []byte) []byte {
	const algorithm = "\x00\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20" // RFC 8017, 9.2
	padded := slices.Repeat([]byte{0xff}, k.Size())
	copy(padded, "\x00\x01")
	copy(padded[k.Size()-len(algorithm)-len(digest):], algorithm+string(digest))
	message, signature := new(big.Int).SetBytes(padded), new(big.Int)
	for _, f := range k.factors {
		residue := new(big.Int).Exp(new(big.Int).Mod(message, f.prime), f.power, f.prime)
		signature.Add(signature, residue.Mul(residue, f.coefficient))
	}
	return signature.Mod(signature, k.N).FillBytes(make([]byte, k.Size()))
}

// claims are those of an IAM access token that are read back; the others are written only.
type claims struct {
	IAMID     string `json:"iam_id"`
	Issuer    string `json:"iss"`
	ExpiresAt int64  `json:"exp"` // epoch seconds
}

// signToken returns a JWT for the identity, issued at the given time and valid for ttl.
func signToken(id *identity, grantType string, issued time.Time, ttl time.Duration) string {
	return sign(tokenHeader, mustJSON(object{
		"iam_id": id.iamID, "id": id.iamID, "realmid": "iam", "jti": uuid.NewString(),
		"identifier": id.subject(), "sub": id.subject(), "sub_type": id.subType(), "name": id.name,
		"authn":   object{"sub": id.subject(), "iam_id": id.iamID, "sub_type": id.subType(), "name": id.name},
		"account": object{"valid": true, "bss": id.account, "frozen": true},
		"iat":     issued.Unix(), "exp": issued.Unix() + int64(ttl/time.Second), "iss": issuer,
		"grant_type": grantType, "scope": "ibm openid", "client_id": "default", "acr": 1, "amr": []string{"pwd"},
	}))
}

// sign makes a JWT of an encoded header and a body.
func sign(header string, body []byte) string {
	signed := header + "." + encode64(body)
	digest := sha256.Sum256([]byte(signed))
	return signed + "." + encode64(signingKey().sign(digest[:]))
}

var tokenHeader = encode64([]byte(`{"kid":"` + signingKeyID + `","alg":"RS256"}`))

var errBadToken = errors.New("the token was not issued by this IAM")

// verifyToken checks the token's header and signature and returns its claims. It does not check the time.
func verifyToken(token string) (c claims, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || parts[0] != tokenHeader {
		return claims{}, errBadToken
	}
	signature, errSignature := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	body, errBody := base64.RawURLEncoding.DecodeString(parts[1])
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	err = cmp.Or(errSignature, errBody, rsa.VerifyPKCS1v15(&signingKey().PublicKey, crypto.SHA256, digest[:], signature))
	if err != nil || json.Unmarshal(body, &c) != nil || c.Issuer != issuer {
		return claims{}, errBadToken
	}
	return c, nil
}

// tokenCacheSize bounds the cache; beyond it the cache is cleared.
const tokenCacheSize = 20_000

// tokenCache remembers the claims of tokens whose signature was good: a program uses its token for many requests.
type tokenCache struct {
	mu     sync.Mutex
	claims map[string]claims
}

// verify is verifyToken, remembered.
func (t *tokenCache) verify(token string) (claims, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known, ok := t.claims[token]; ok {
		return known, nil
	}
	verified, err := verifyToken(token)
	if err != nil {
		return claims{}, err
	}
	if t.claims == nil || len(t.claims) >= tokenCacheSize {
		t.claims = make(map[string]claims)
	}
	t.claims[token] = verified
	return verified, nil
}
