package ibmcloud

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

const secretID = "c0b54eb1-9c8d-4d5e-8a6e-d1a8a7a4f1f4"

// measured answers every request to Secrets Manager with a secret of size bytes. It counts the
// bytes that are read, and the large answers that are being read at the same time.
type measured struct {
	size int

	read, large, most atomic.Int64 // most is the highest value of large
}

func (m *measured) RoundTrip(req *http.Request) (*http.Response, error) {
	var body io.ReadCloser
	if req.URL.Host == "iam.test" {
		body = io.NopCloser(strings.NewReader(fmt.Sprintf(`{"access_token":"%s","token_type":"Bearer","expires_in":3600,"expiration":%d}`,
			strings.Repeat("opaque-", 6), time.Now().Add(time.Hour).Unix())))
	} else {
		const frame = `{"id":"` + secretID + `","secret_type":"kv","created_at":"2026-01-01T10:00:00.000Z","version_custom_metadata":{"rotator_version":"1"},"data":{"key":"the-key","other":"%s"}}`
		body = &measuredBody{Reader: strings.NewReader(fmt.Sprintf(frame, strings.Repeat("x", m.size-len(frame)+2))), wire: m}
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: body}, nil
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

func measuredSecretsManager(t *testing.T, wire http.RoundTripper) *SecretsManager {
	t.Helper()
	bootstrap := BootstrapByKey(NewIAM("https://iam.test", wire, nil), FixedKey(iamtoken.NewSecret("the-bootstrap-key")))
	sm, err := NewSecretsManager(SecretsManagerOptions{URL: "https://instance.test", Transport: wire, Bootstrap: bootstrap})
	if err != nil {
		t.Fatal(err)
	}
	return sm
}

// Each answer is read up to its operation's limit, and only one large answer at a time.
func TestHowAnswersAreRead(t *testing.T) {
	readKey := func(sm *SecretsManager) error {
		_, err := sm.ReadKey(context.Background(), rotation.KeyRef{ID: secretID, Field: "key"})
		return err
	}
	readMetadata := func(sm *SecretsManager) error {
		_, err := sm.ReadMetadata(context.Background(), rotation.TokenRef{ID: "x"})
		return err
	}
	for name, test := range map[string]struct {
		size  int
		read  func(*SecretsManager) error
		times int64
		ok    bool
		limit int64
	}{
		"a kv secret of 512 KB":        {512 << 10, readKey, 1, true, 512 << 10},
		"sixteen of them at once":      {512 << 10, readKey, 16, true, 16 * 512 << 10},
		"a secret of 5 MB":             {5 << 20, readKey, 1, false, largeAnswer + 1},
		"metadata of 10 KB, escaped":   {64 << 10, readMetadata, 1, true, 64 << 10},
		"metadata of 5 MB, valid JSON": {5 << 20, readMetadata, 1, false, network.SmallAnswer + 1},
	} {
		wire := &measured{size: test.size}
		sm := measuredSecretsManager(t, wire)
		var all sync.WaitGroup
		for range test.times {
			all.Go(func() {
				err := test.read(sm)
				if (err == nil) != test.ok || err != nil && !strings.Contains(err.Error(), "larger response than this request can have") {
					t.Errorf("%s: got %v, want success %t", name, err, test.ok)
				}
			})
		}
		all.Wait()
		if read, most := wire.read.Load(), wire.most.Load(); read > test.limit || most > 1 {
			t.Errorf("%s: %d bytes were read, %d large answers at once; want at most %d and 1", name, read, most, test.limit)
		}
	}
}

func TestWaitingForALargeAnswersTurnEndsWithTheContext(t *testing.T) {
	wire := newWire(&measured{size: 512 << 10}, time.Now)
	wire.large <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	got := ask(ctx, largeAnswer, nil, func(ctx context.Context) {
		if request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://instance.test/", nil); err == nil {
			_, _ = wire.RoundTrip(request)
		}
	})
	if got.sendErr == nil || ctx.Err() == nil {
		t.Errorf("got %v, want the end of the context", got.sendErr)
	}
}

// A save checks again that its secret is no key secret: the id of one that is given by name may
// become known after the metadata was read.
func TestASaveNeverReplacesAKey(t *testing.T) {
	wire := &measured{size: 1 << 10}
	sm := measuredSecretsManager(t, wire)
	if _, err := sm.ReadKey(t.Context(), rotation.KeyRef{Group: "keys", Type: "kv", Name: "by-name", Field: "key"}); err != nil {
		t.Fatal(err)
	}
	read := wire.read.Load()
	_, err := sm.Save(t.Context(), rotation.TokenRef{ID: secretID}, rotation.TokenVersion{SecretType: "kv"}, iamtoken.Token{}, iamtoken.Metadata{})
	if err == nil || !strings.Contains(err.Error(), "reads its API key from") || wire.read.Load() != read {
		t.Errorf("got %v, want no request and an error that says so", err)
	}
}

// A fleet has thousands of keys, and each of its rotations checks that its token secret is none
// of them.
func TestAReadDoesNotSearchAllKeys(t *testing.T) {
	allocated := func(keys int) uint64 {
		sm := measuredSecretsManager(t, &measured{size: 1 << 10})
		for i := range keys {
			sm.keys.add(rotation.KeyRef{Group: "keys", Type: "kv", Name: fmt.Sprintf("key-%d", i)}, fmt.Sprintf("id-%d", i))
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 20 {
			if _, err := sm.ReadMetadata(t.Context(), rotation.TokenRef{ID: secretID}); err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	if one, many := allocated(1), allocated(10_000); many > 2*one+1<<20 {
		t.Errorf("20 reads allocate %d KB with a key, and %d KB with 10,000", one>>10, many>>10)
	}
}

// IBM returns a ttl as it was written; a key's id is repeated only if it has the form of one.
func TestFieldsOfAManagedKey(t *testing.T) {
	const day, id = 24 * time.Hour, "ApiKey-3c9f1b5e-6d0a-4f0c-8a63-0d2f6f1f2b7a"
	for text, same := range map[string]bool{"": true, id: true, "a-key-in-place-of-an-id": false, "ApiKey-\x1b[2J": false, id + "0": false, strings.Repeat("x", 1000): false} {
		if got := keyIDOf(text); (got == text) != same || !same && len(got) != 32 || got != keyIDOf(text) {
			t.Errorf("an id of %d characters: got %q, want it repeated: %t", len(text), got, same)
		}
	}
	for text, want := range map[string]time.Duration{"1080h": 45 * day, "3888000": 45 * day, "3888000s": 45 * day, "": 0, "45 days": 0, "-1h": 0, "99999999999999": 0} {
		if got := ttlOf(text); got != want {
			t.Errorf("ttl %q: got %s, want %s", text, got, want)
		}
	}
	for body, want := range map[string]time.Duration{
		`{}`: 0, `null`: 0, `{"auto_rotate":false,"interval":15,"unit":"day"}`: 0, `{"auto_rotate":true}`: 0,
		`{"auto_rotate":true,"interval":15,"unit":"day"}`: 15 * day, `{"auto_rotate":true,"interval":15,"unit":"month"}`: 15 * 31 * day,
		`{"auto_rotate":true,"interval":15,"unit":"week"}`: 0, `{"auto_rotate":true,"interval":-1,"unit":"day"}`: 0,
		`{"auto_rotate":true,"interval":4611686018427387904,"unit":"day"}`: 1000 * day,
	} {
		var r rule
		if err := json.Unmarshal([]byte(body), &r); err != nil || r.every() != want {
			t.Errorf("%s: got %s (%v), want %s", body, r.every(), err, want)
		}
	}
	const ten = 1767261600
	for text, unix := range map[string]int64{
		`"2026-01-01T10:00:00.000Z"`: ten, `"2026-01-01T10:00+0000"`: ten, `"2026-01-01T12:00:00+0200"`: ten, `"2026-01-01T12:00+02:00"`: ten,
		`"2026-01-01T10:00:00"`: ten, `"2026-01-01T10:00"`: ten, `"2026-01-01 10:00:00"`: ten, `"2026-01-01"`: ten - 36000,
		`null`: time.Time{}.Unix(), `""`: time.Time{}.Unix(),
	} {
		var at timestamp
		if err := json.Unmarshal([]byte(text), &at); err != nil || at.Unix() != unix {
			t.Errorf("%s: got %s, %v", text, at, err)
		}
	}
	if err := json.Unmarshal([]byte(`"yesterday"`), new(timestamp)); err == nil {
		t.Error("got a time of a text that is none")
	}
}
