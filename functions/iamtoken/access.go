package iamtoken

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// authenticate returns a token of the reader identity: the one kept, or a new one.
func (s *SecretsManager) authenticate(ctx context.Context) (Secret, error) {
	if s.AccessToken != nil {
		access, err := s.AccessToken(ctx)
		if err != nil {
			return Secret{}, fmt.Errorf("getting the reader's own token: %w", err)
		}
		return NewSecret(TrimBearer(access.Reveal())), nil
	}
	s.mu.Lock()
	access, until := s.access, s.until
	s.mu.Unlock()
	if !access.IsZero() && time.Now().Round(0).Before(until) {
		return access, nil
	}
	access, life, err := s.exchange(ctx)
	if err != nil {
		return Secret{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Four fifths of its life, by this machine's clock alone, which may be off.
	s.access, s.until = access, time.Now().Round(0).Add(life*4/5)
	return access, nil
}

// forget drops a token that was refused; false if there is no way to another one.
func (s *SecretsManager) forget(refused Secret) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.AccessToken != nil {
		return false
	}
	if s.access == refused {
		s.access = Secret{}
	}
	return true
}

// exchange gets a token for the reader's API key, with the life IAM gives it.
func (s *SecretsManager) exchange(ctx context.Context) (Secret, time.Duration, error) {
	iam := s.IAMURL
	if iam == "" {
		iam = DefaultIAMURL
	}
	form := url.Values{
		"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"},
		"apikey":     {strings.TrimSpace(s.APIKey.Reveal())},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(iam, "/")+"/identity/token", strings.NewReader(form.Encode()))
	if err != nil {
		return Secret{}, 0, fmt.Errorf("building the request to IAM: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := s.send(request, "IAM")
	if err != nil {
		return Secret{}, 0, err
	}
	switch answer.status {
	case http.StatusOK:
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		return Secret{}, 0, fmt.Errorf("%w: IAM does not take the reader's API key (HTTP %d): does it exist, and is it enabled and in date?", ErrDenied, answer.status)
	default:
		return Secret{}, 0, answer.failure("IAM")
	}
	var body struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if json.Unmarshal(answer.body, &body) != nil || !tokenShape.MatchString(body.AccessToken) {
		return Secret{}, 0, unusable("IAM")
	}
	return NewSecret(body.AccessToken), time.Duration(body.ExpiresIn) * time.Second, nil
}
