package ibmcloudtest

import "sync"

// tokenCacheSize bounds the cache; beyond it the cache begins anew.
const tokenCacheSize = 20_000

// tokenCache remembers the claims of tokens whose signature was good: checking an RSA signature on
// every request would be most of a long simulation's time.
type tokenCache struct {
	mu     sync.Mutex
	claims map[string]claims
}

// verify is verifyToken, remembered.
func (t *tokenCache) verify(token string) (claims, error) {
	t.mu.Lock()
	known, ok := t.claims[token]
	t.mu.Unlock()
	if ok {
		return known, nil
	}
	verified, err := verifyToken(token)
	if err != nil {
		return claims{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.claims == nil || len(t.claims) >= tokenCacheSize {
		t.claims = make(map[string]claims)
	}
	t.claims[token] = verified
	return verified, nil
}
