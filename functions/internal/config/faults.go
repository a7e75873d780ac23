package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// faults collects what is wrong, each under the name of the variable to mend.
type faults struct {
	found []error
	names map[string]bool
}

func (f *faults) add(name, format string, args ...any) {
	f.found = append(f.found, fmt.Errorf("%s: "+format, append([]any{name}, args...)...))
	if f.names == nil {
		f.names = map[string]bool{}
	}
	f.names[name] = true
}

// addFirst adds a fault unless name has one: a value that could not be read need
// not be told to be out of range as well.
func (f *faults) addFirst(name, format string, args ...any) {
	if !f.names[name] {
		f.add(name, format, args...)
	}
}

func (f *faults) err() error { return errors.Join(f.found...) }

// short quotes a value that is too short to be a key or a token, and tells the
// length of any other: people paste into the wrong place.
func short(value string) string {
	if len(value) > 16 {
		return fmt.Sprintf("(%d characters, not repeated here)", len(value))
	}
	return strconv.Quote(value)
}

// reason is why a file could not be read, without its name.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// origin checks that value is an https origin without a path, or an http one on
// loopback, and returns it without a trailing slash. The value is not repeated:
// a URL may hold a password.
func (f *faults) origin(name, value string) string {
	parsed, err := url.Parse(strings.TrimSuffix(value, "/"))
	switch {
	case value == "":
		f.add(name, "is required: the instance's endpoint, https://….secrets-manager.appdomain.cloud")
	case err != nil || parsed.Hostname() == "":
		f.add(name, "is not a URL: use an origin such as https://host")
	case parsed.User != nil || parsed.Path != "" || strings.ContainsAny(value, "?#"):
		f.add(name, "is more than an origin: use https://host alone, without a path, a user or a query")
	case parsed.Scheme == "https", parsed.Scheme == "http" && isLoopback(parsed.Hostname()):
		return parsed.String()
	default:
		f.add(name, "must begin with https:// (http:// is for loopback only): keys and tokens would travel in the clear")
	}
	return ""
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
