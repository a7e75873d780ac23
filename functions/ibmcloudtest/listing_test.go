package ibmcloudtest_test

import (
	"fmt"
	"net/url"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestListSecrets(t *testing.T) {
	_, c, admin := newAdmin(t, ibmcloudtest.Options{})
	for _, body := range []string{
		`{"secret_type":"arbitrary","name":"beta","payload":"x","labels":["dev","us"],"description":"second"}`,
		`{"secret_type":"kv","name":"alpha","data":{"k":"v"},"labels":["dev"]}`,
		`{"secret_type":"arbitrary","name":"gamma","payload":"x"}`,
	} {
		c.want(201, admin, "POST", "/api/v2/secrets", body)
	}
	for _, test := range []struct {
		query string
		want  []any
	}{
		{"", []any{"api-key-default", "iam-token-default", "beta", "alpha", "gamma"}},
		{"groups=default", []any{"beta", "alpha", "gamma"}},
		{"groups=default&sort=name", []any{"alpha", "beta", "gamma"}},
		{"groups=default&sort=-name", []any{"gamma", "beta", "alpha"}},
		{"groups=none", nil},
		{"search=SECOND", []any{"beta"}},
		{"search=us", []any{"beta"}},
		{"secret_types=kv", []any{"alpha"}},
		{"secret_types=kv,arbitrary&groups=default", []any{"beta", "alpha", "gamma"}},
		{"match_all_labels=dev", []any{"beta", "alpha"}},
		{"match_all_labels=dev,us", []any{"beta"}},
		{"groups=default&offset=1", []any{"alpha", "gamma"}},
		{"groups=default&limit=1&offset=1", []any{"alpha"}},
		{"groups=default&offset=7", nil},
	} {
		got := c.want(200, admin, "GET", "/api/v2/secrets?"+test.query, "")
		var names []any
		for i := 0; got.at("secrets", i) != nil; i++ {
			names = append(names, got.at("secrets", i, "name"))
		}
		if fmt.Sprint(names) != fmt.Sprint(test.want) {
			t.Errorf("%s: got %v, want %v", test.query, names, test.want)
		}
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=x", "offset=-1", "sort=colour"} {
		if got := c.do(admin, "GET", "/api/v2/secrets?"+query, ""); got.status != 400 {
			t.Errorf("%s: got %d, want 400", query, got.status)
		}
	}
	if got := c.want(200, admin, "GET", "/api/v2/secrets", ""); got.at("limit") != 200.0 || got.at("offset") != 0.0 {
		t.Errorf("page: got limit %v, offset %v; want 200 and 0", got.at("limit"), got.at("offset"))
	}
}

// TestPagesLinkToEachOther walks by the links alone.
func TestPagesLinkToEachOther(t *testing.T) {
	_, c, admin := newAdmin(t, ibmcloudtest.Options{Rotations: 5}) // ten secrets
	for _, test := range []struct{ limit, pages, lastOffset int }{{4, 3, 8}, {5, 2, 5}, {10, 1, 0}, {1, 10, 9}} {
		next, pages, items := fmt.Sprintf("/api/v2/secrets?limit=%d&sort=name&search=rotation", test.limit), 0, 0
		for next != "" {
			got := c.want(200, admin, "GET", next, "")
			pages++
			for i := 0; got.at("secrets", i) != nil; i++ {
				items++
			}
			wantLast := fmt.Sprintf("/api/v2/secrets?limit=%d&offset=%d&search=rotation&sort=name", test.limit, test.lastOffset)
			if last := linkPath(t, got.at("last", "href")); last != wantLast {
				t.Errorf("last: got %s, want %s", last, wantLast)
			}
			if hasPrevious := got.at("previous") != nil; hasPrevious != (pages > 1) {
				t.Errorf("page %d: previous: got %t", pages, hasPrevious)
			}
			next = linkPath(t, got.at("next", "href"))
		}
		if pages != test.pages || items != 10 {
			t.Errorf("limit %d: got %d items on %d pages, want 10 on %d", test.limit, items, pages, test.pages)
		}
	}
}

// linkPath is an absolute link's path and query, "" for no link.
func linkPath(t *testing.T, href any) string {
	t.Helper()
	if href == nil {
		return ""
	}
	u, err := url.Parse(href.(string))
	if err != nil || u.Scheme != "https" || u.Host != "cloud.test" {
		t.Fatalf("link: got %v, want one on https://cloud.test", href)
	}
	return u.RequestURI()
}
