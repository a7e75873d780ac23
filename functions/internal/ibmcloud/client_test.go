package ibmcloud

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

// measured answers every request to Secrets Manager with a secret of size bytes, and counts how many
// bytes are read, and how many answers are read beyond a small one and not closed.
type measured struct {
	size int

	read, large, most atomic.Int64
}

func (m *measured) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == "iam.test" {
		token := fmt.Sprintf(`{"access_token":"%s","token_type":"Bearer","expires_in":3600,"expiration":%d}`, strings.Repeat("opaque-", 6), time.Now().Add(time.Hour).Unix())
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(token))}, nil
	}
	frame := `{"id":"c0b54eb1-9c8d-4d5e-8a6e-d1a8a7a4f1f4","secret_type":"kv","created_at":"2026-01-01T10:00:00.000Z","version_custom_metadata":{"rotator_version":"1"},"data":{"key":"the-key","other":"%s"}}`
	body := fmt.Sprintf(frame, strings.Repeat("x", m.size-len(frame)+2))
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}},
		Body: &measuredBody{Reader: strings.NewReader(body), wire: m}}, nil
}

type measuredBody struct {
	io.Reader
	wire *measured
	n    int
}

func (b *measuredBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.wire.read.Add(int64(n))
	if b.n <= network.SmallAnswer+1 && b.n+n > network.SmallAnswer+1 {
		b.wire.most.Store(max(b.wire.most.Load(), b.wire.large.Add(1)))
		time.Sleep(time.Millisecond) // for the others to come
	}
	b.n += n
	return n, err
}

func (b *measuredBody) Close() error {
	if b.n > network.SmallAnswer+1 {
		b.wire.large.Add(-1)
	}
	return nil
}

func measuredSecretsManager(t *testing.T, wire *measured) *SecretsManager {
	t.Helper()
	bootstrap := BootstrapByKey(NewIAM("https://iam.test", wire, nil), FixedKey(iamtoken.NewSecret("the-bootstrap-key")))
	sm, err := NewSecretsManager(SecretsManagerOptions{URL: "https://instance.test", Transport: wire, Bootstrap: bootstrap})
	if err != nil {
		t.Fatal(err)
	}
	return sm
}

func TestAnAnswerIsReadAsFarAsItsOperationNeeds(t *testing.T) {
	ctx := context.Background()
	readKey := func(sm *SecretsManager) error {
		_, err := sm.ReadKey(ctx, rotation.KeyRef{ID: "c0b54eb1-9c8d-4d5e-8a6e-d1a8a7a4f1f4", Field: "key"})
		return err
	}
	readMetadata := func(sm *SecretsManager) error {
		_, err := sm.ReadMetadata(ctx, rotation.TokenRef{ID: "x"})
		return err
	}
	for name, test := range map[string]struct {
		size  int
		read  func(*SecretsManager) error
		ok    bool
		limit int64
	}{
		"a kv secret of 512 KB":        {512 << 10, readKey, true, 512 << 10},
		"a secret of 5 MB":             {5 << 20, readKey, false, secretAnswer + 1},
		"metadata of 10 KB, escaped":   {64 << 10, readMetadata, true, 64 << 10},
		"metadata of 5 MB, valid JSON": {5 << 20, readMetadata, false, network.SmallAnswer + 1},
	} {
		wire := &measured{size: test.size}
		err := test.read(measuredSecretsManager(t, wire))
		if (err == nil) != test.ok || err != nil && !strings.Contains(err.Error(), "larger response than this request can have") {
			t.Errorf("%s: got %v, want success %t", name, err, test.ok)
		}
		if got := wire.read.Load(); got > test.limit {
			t.Errorf("%s: %d bytes were read, want at most %d", name, got, test.limit)
		}
	}
}

// A key that was found after the metadata was read is seen before the save.
func TestASaveIsNeverOverAKey(t *testing.T) {
	wire := &measured{size: 1 << 10}
	sm := measuredSecretsManager(t, wire)
	const id = "c0b54eb1-9c8d-4d5e-8a6e-d1a8a7a4f1f4"
	if _, err := sm.ReadKey(t.Context(), rotation.KeyRef{Group: "keys", Type: "kv", Name: "by-name", Field: "key"}); err != nil {
		t.Fatal(err)
	}
	read := wire.read.Load()
	_, err := sm.Save(t.Context(), rotation.TokenRef{ID: id}, rotation.CurrentVersion{SecretType: "kv"}, iamtoken.Token{}, iamtoken.Metadata{})
	if err == nil || !strings.Contains(err.Error(), "reads its API key from") || wire.read.Load() != read {
		t.Errorf("got %v, want no request and an error that says so", err)
	}
}

func TestLargeAnswersAreReadOneAtATime(t *testing.T) {
	wire := &measured{size: 512 << 10}
	sm := measuredSecretsManager(t, wire)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if _, err := sm.ReadKey(context.Background(), rotation.KeyRef{ID: "c0b54eb1-9c8d-4d5e-8a6e-d1a8a7a4f1f4", Field: "key"}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := wire.most.Load(); got != 1 {
		t.Errorf("%d large answers were read at once, want 1", got)
	}
}

func TestWaitingForALargeAnswersTurnEndsWithTheContext(t *testing.T) {
	wire := newWire(&measured{size: 512 << 10}, time.Now)
	wire.large <- struct{}{}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	got := ask(ctx, secretAnswer, nil, func(ctx context.Context) {
		if request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://instance.test/", nil); err == nil {
			_, _ = wire.RoundTrip(request)
		}
	})
	if got.unanswered == nil || ctx.Err() == nil {
		t.Errorf("got %v, want the end of the context", got.unanswered)
	}
}
