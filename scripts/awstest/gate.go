package awstest

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"iam-token-rotator/functions/ibmcloudtest"
)

// credentials sign requests.
type credentials struct {
	KeyID   string    `xml:"AccessKeyId"`
	Secret  string    `xml:"SecretAccessKey"`
	Token   string    `xml:"SessionToken"` // empty for those of Environment
	Expires time.Time `xml:"Expiration"`   // zero for never
}

var (
	// own are the credentials of this process, random for each process.
	own = sync.OnceValue(func() credentials {
		return credentials{KeyID: "AKIA" + rand.Text()[:16], Secret: (rand.Text() + rand.Text())[:40]}
	})
	// WebIdentityToken is the only token that AssumeRoleWithWebIdentity accepts.
	WebIdentityToken = sync.OnceValue(rand.Text)
)

// A gate authenticates requests, because the services behind it check nothing and one of them runs programs. A request
// must be local, see [ibmcloudtest.IsLocal]; for S3 the Host may also be BUCKET.localhost. And it must
//
//   - either have a valid signature (Signature Version 4), in the Authorization header or presigned in the query, by the
//     credentials of [Environment] or by credentials that STS issued. As at AWS, a signature in the header is valid for 15
//     minutes, a presigned one as long as the query says;
//   - or be AssumeRoleWithWebIdentity, which is not signed at AWS either, with the [WebIdentityToken].
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
type gate struct {
	mu     sync.Mutex
	issued map[string]credentials // by STS, by key id
}

// A rejection is an error with a code of AWS's.
type rejection struct{ code, message string }

func (r *rejection) Error() string { return r.code + ": " + r.message }

var (
	errForeign  = &rejection{"AccessDenied", "The request comes from another origin or by another host name than this sandbox's own."}
	errUnsigned = &rejection{"MissingAuthenticationToken", "The request is not signed (Signature Version 4) with the credentials of this sandbox."}
	errKey      = &rejection{"InvalidClientTokenId", "The request is signed with credentials that are not this sandbox's: read its environment file again."}
	errMismatch = &rejection{"SignatureDoesNotMatch", "The signature does not match this request and the secret access key."}
	errExpired  = &rejection{"ExpiredToken", "The credentials or the signature have expired, or the signature has a time in the future."}
)

// maxBody limits a request, in bytes; the largest is the function's zip of some MB.
const maxBody = 64 << 20

// admit returns the service that an authenticated request is for, or a *rejection. It reads the body and puts back a copy.
func (g *gate) admit(r *http.Request, hosts ...string) (service string, err error) {
	s, signed := signatureOf(r)
	if name, _, _ := strings.Cut(strings.ToLower(r.Host), ":"); s.service == "s3" && strings.HasSuffix(name, ".localhost") {
		hosts = append(hosts, name)
	}
	if !ibmcloudtest.IsLocal(r, hosts...) {
		return "", errForeign
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil || len(body) > maxBody {
		return "", &rejection{"RequestEntityTooLarge", "The request cannot be read, or is larger than 64 MB."}
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if !signed {
		return "sts", checkWebIdentity(r, body)
	}
	k, known := own(), true
	if s.keyID != k.KeyID {
		g.mu.Lock()
		k, known = g.issued[s.keyID]
		g.mu.Unlock()
	}
	switch {
	case !known || !hmac.Equal([]byte(s.token), []byte(k.Token)):
		return "", errKey
	case !s.current(time.Now()) || !k.Expires.IsZero() && time.Now().After(k.Expires):
		return "", errExpired
	}
	if want, ok := s.of(r, body, k); !ok || !hmac.Equal([]byte(s.hex), []byte(want)) {
		return "", errMismatch
	}
	return s.service, nil
}

// checkWebIdentity accepts an unsigned request if it is AssumeRoleWithWebIdentity with the right token.
func checkWebIdentity(r *http.Request, body []byte) error {
	form, err := url.ParseQuery(string(body))
	plain := r.Method == http.MethodPost && r.URL.Path == "/" && r.URL.RawQuery == "" && r.Header["Authorization"] == nil &&
		r.Header["X-Amz-Target"] == nil && r.Header.Get("Content-Encoding") == "" && isForm(r)
	action, tokens := form["Action"], form["WebIdentityToken"]
	if err != nil || !plain || len(action) != 1 || action[0] != "AssumeRoleWithWebIdentity" || len(tokens) != 1 {
		return errUnsigned
	}
	if !hmac.Equal([]byte(tokens[0]), []byte(WebIdentityToken())) {
		return &rejection{"InvalidIdentityToken", "The web identity token is not this sandbox's."}
	}
	return nil
}

// learn stores the credentials in an answer of STS, and returns the last of them.
func (g *gate) learn(answer []byte) (last credentials) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for tokens := xml.NewDecoder(bytes.NewReader(answer)); ; { // #nosec G709 -- of the moto that this process has started
		token, err := tokens.Token()
		if err != nil {
			return last
		}
		var issued credentials
		element, ok := token.(xml.StartElement)
		if !ok || element.Name.Local != "Credentials" || tokens.DecodeElement(&issued, &element) != nil || issued.Token == "" {
			continue
		}
		if g.issued == nil {
			g.issued = map[string]credentials{}
		}
		g.issued[issued.KeyID], last = issued, issued
	}
}

// reject answers with an error, in the format of the service that the request is for, JSON or XML.
func reject(w http.ResponseWriter, r *http.Request, err error) {
	status, code := http.StatusInternalServerError, "ServiceException"
	if rejected, ok := errors.AsType[*rejection](err); ok {
		code = rejected.code
		statuses := map[string]int{"ResourceNotFoundException": 404, "ResourceConflictException": 409, errDeleted.code: 400, errFull.code: 400}
		status = cmp.Or(statuses[code], http.StatusForbidden)
		err = errors.New(rejected.message)
	}
	w.Header().Set("X-Amzn-Errortype", code)
	if isForm(r) || r.Header["X-Amz-Target"] == nil && !strings.HasPrefix(r.URL.Path, "/20") {
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(status)
		_ = xml.NewEncoder(w).Encode(struct {
			XMLName       xml.Name `xml:"ErrorResponse"`
			Code, Message string   // where S3 has them
			Error         struct{ Code, Message string }
		}{Code: code, Message: err.Error(), Error: struct{ Code, Message string }{code, err.Error()}})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "Message": err.Error()})
}

func isForm(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded")
}

// A signature has the parameters of a request's signature, not yet verified.
type signature struct {
	keyID, day, region, service string // the credential and its scope
	headers                     string // the names of the signed headers
	hex                         string // the signature itself
	at, expires, token          string // expires: seconds, of a presigned request only
	presigned                   bool
}

const (
	algorithm = "AWS4-HMAC-SHA256"
	timeForm  = "20060102T150405Z"
)

// signatureOf reads a request's only signature. ok is false if there is none, or more than one.
func signatureOf(r *http.Request) (s signature, ok bool) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	var credential string
	if authorization := r.Header["Authorization"]; len(authorization) == 1 && !query.Has("X-Amz-Signature") {
		fields := map[string]string{}
		parameters, found := strings.CutPrefix(authorization[0], algorithm+" ")
		for field := range strings.SplitSeq(parameters, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
			fields[name] = value
		}
		credential, ok = fields["Credential"], found
		s = signature{headers: fields["SignedHeaders"], hex: fields["Signature"],
			at: r.Header.Get("X-Amz-Date"), token: r.Header.Get("X-Amz-Security-Token")}
	} else if authorization == nil {
		credential, ok = query.Get("X-Amz-Credential"), query.Get("X-Amz-Algorithm") == algorithm
		s = signature{headers: query.Get("X-Amz-SignedHeaders"), hex: query.Get("X-Amz-Signature"), at: query.Get("X-Amz-Date"),
			expires: query.Get("X-Amz-Expires"), token: query.Get("X-Amz-Security-Token"), presigned: true}
	}
	scope := strings.Split(credential, "/")
	if err != nil || !ok || len(scope) != 5 || scope[4] != "aws4_request" {
		return signature{}, false
	}
	s.keyID, s.day, s.region, s.service = scope[0], scope[1], scope[2], scope[3]
	return s, true
}

// current reports whether a signature is valid now.
func (s *signature) current(now time.Time) bool {
	const skew = 15 * time.Minute
	at, err := time.Parse(timeForm, s.at)
	validity := skew
	if s.presigned {
		seconds, notNumber := strconv.Atoi(s.expires)
		if notNumber != nil || seconds < 1 || seconds > 7*24*60*60 {
			return false
		}
		validity = time.Duration(seconds) * time.Second
	}
	return err == nil && strings.HasPrefix(s.at, s.day) && at.Sub(now) < skew && now.Sub(at) < validity
}

// of computes, with AWS's own signer, the signature that the request must have if it is signed with the credentials. ok is
// false if the signature does not cover what it must.
func (s *signature) of(r *http.Request, body []byte, c credentials) (want string, ok bool) {
	signed := r.Clone(r.Context())
	signed.Header, signed.ContentLength, signed.URL.Host = http.Header{}, 0, r.Host
	names := strings.Split(s.headers, ";")
	for name, values := range r.Header {
		if slices.Contains(names, strings.ToLower(name)) {
			signed.Header[name] = values
		} else if strings.HasPrefix(name, "X-Amz-") {
			return "", false
		}
	}
	if slices.Contains(names, "content-length") {
		signed.ContentLength = r.ContentLength
	}
	hash := sha256.Sum256(body)
	payload := hex.EncodeToString(hash[:])
	declared := r.Header.Get("X-Amz-Content-Sha256")
	if s.presigned && s.service == "s3" {
		declared = cmp.Or(declared, "UNSIGNED-PAYLOAD")
	}
	if declared == "UNSIGNED-PAYLOAD" || strings.HasPrefix(declared, "STREAMING-") {
		payload = declared
	} else if declared != "" && declared != payload {
		return "", false
	}
	at, err := time.Parse(timeForm, s.at)
	if err != nil {
		return "", false
	}
	with := aws.Credentials{AccessKeyID: c.KeyID, SecretAccessKey: c.Secret, SessionToken: c.Token}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping, o.DisableHeaderHoisting = s.service == "s3", true })
	if s.presigned {
		query := signed.URL.Query()
		for _, name := range []string{"Algorithm", "Credential", "Date", "SignedHeaders", "Signature", "Security-Token"} {
			query.Del("X-Amz-" + name)
		}
		signed.URL.RawQuery = query.Encode()
		var presigned string
		if presigned, _, err = signer.PresignHTTP(r.Context(), with, signed, payload, s.service, s.region, at); err == nil {
			signed.URL, err = url.Parse(presigned)
		}
	} else {
		err = signer.SignHTTP(r.Context(), with, signed, payload, s.service, s.region, at)
	}
	made, _ := signatureOf(signed)
	return made.hex, err == nil && made.headers == s.headers
}
