package awstest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// signer is that of AWS's own SDK.
var signer = v4.NewSigner()

func (c credentials) aws() aws.Credentials {
	return aws.Credentials{AccessKeyID: c.KeyID, SecretAccessKey: c.Secret, SessionToken: c.Token}
}

func hashOf(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}

// request builds an unsigned request.
func request(t *testing.T, method, url, body string, header ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

// signed signs a request for a service.
func signed(t *testing.T, r *http.Request, with credentials, service string, at time.Time) *http.Request {
	t.Helper()
	body, err := r.GetBody()
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(body)
	err = signer.SignHTTP(context.Background(), with.aws(), r, hashOf(string(text)), service, Region, at, func(o *v4.SignerOptions) { o.DisableURIPathEscaping = service == "s3" })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// presigned returns a request that has its signature in the query.
func presigned(t *testing.T, r *http.Request, with credentials, service, payload string, at time.Time) *http.Request {
	t.Helper()
	query := r.URL.Query()
	query.Set("X-Amz-Expires", "60")
	r.URL.RawQuery = query.Encode()
	url, _, err := signer.PresignHTTP(context.Background(), with.aws(), r, payload, service, Region, at, func(o *v4.SignerOptions) { o.DisableURIPathEscaping = service == "s3" })
	if err != nil {
		t.Fatal(err)
	}
	return request(t, r.Method, url, "")
}

// A request without valid credentials gets 403, whatever else it contains.
func TestTheGate(t *testing.T) {
	var g gate
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		service, err := g.admit(r, "aws.internal")
		if err != nil {
			reject(w, r, err)
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Service", service)
		_, _ = w.Write(body)
	}))
	defer server.Close()
	now, me := time.Now(), own()
	issued := credentials{"ASIAISSUED", "issued-secret", "issued-token", now.Add(time.Hour)}
	ended := credentials{"ASIAENDED", "issued-secret", "issued-token", now.Add(-time.Second)}
	g.issued = map[string]credentials{issued.KeyID: issued, ended.KeyID: ended}
	at := func(path string) string { return server.URL + path }
	const form = "application/x-www-form-urlencoded"
	get := func(path string, header ...string) *http.Request { return request(t, "GET", at(path), "", header...) }
	// with signs a GET and changes it afterwards.
	with := func(change func(*http.Request)) *http.Request {
		r := signed(t, get("/bucket/key?list-type=2", "X-Amz-Meta-A", "1"), me, "s3", now)
		change(r)
		return r
	}
	host := func(name, service string) *http.Request {
		r := get("/")
		r.Host = name
		return signed(t, r, me, service, now)
	}
	identity := func(method, path, body string, header ...string) *http.Request {
		return request(t, method, at(path), body, append([]string{"Content-Type", form}, header...)...)
	}
	token := WebIdentityToken()
	byIdentity := "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=r&RoleSessionName=s&WebIdentityToken="
	for name, test := range map[string]struct {
		request *http.Request
		want    string // the service, or the error
	}{
		"signed":                         {signed(t, get("/"), me, "sqs", now), "sqs"},
		"signed with a body":             {signed(t, request(t, "POST", at("/"), "Action=ListQueues", "Content-Type", form), me, "sqs", now), "sqs"},
		"signed with a target":           {signed(t, request(t, "POST", at("/"), "{}", "X-Amz-Target", "secretsmanager.ListSecrets"), me, "secretsmanager", now), "secretsmanager"},
		"signed, path and query escaped": {signed(t, get("/2015-03-31/functions/arn%3Aaws%3Alambda:x/a%20b~(c)?b=2&a-b=1&a=%2B%20%C3%A9&a=&c"), me, "lambda", now), "lambda"},
		"S3, path escaped":               {signed(t, get("/bucket/a%20b/c+d~(e)/%C3%A9"), me, "s3", now), "s3"},
		"S3, streamed":                   {signed(t, get("/b/k", "X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"), me, "s3", now), "SignatureDoesNotMatch"}, // signed for another hash
		"issued by STS":                  {signed(t, get("/"), issued, "s3", now), "s3"},
		"presigned":                      {presigned(t, get("/bucket/key?versionId=1"), me, "s3", "UNSIGNED-PAYLOAD", now), "s3"},
		"presigned, issued by STS":       {presigned(t, get("/bucket/key"), issued, "s3", "UNSIGNED-PAYLOAD", now), "s3"},
		"presigned, of STS":              {presigned(t, get("/?Action=GetCallerIdentity&Version=2011-06-15"), me, "sts", hashOf(""), now), "sts"},
		"ten minutes old":                {signed(t, get("/"), me, "s3", now.Add(-10*time.Minute)), "s3"},
		"own origin":                     {with(func(r *http.Request) { r.Header.Set("Origin", server.URL) }), "s3"},
		"-addr's host":                   {host("aws.internal:8481", "sqs"), "sqs"},
		"localhost":                      {host("LOCALHOST:1", "sqs"), "sqs"},
		"a bucket of localhost":          {host("my-bucket.localhost:8481", "s3"), "s3"},
		"by web identity":                {identity("POST", "/", byIdentity+token), "sts"},

		"unsigned":                     {get("/"), "MissingAuthenticationToken"},
		"unsigned invocation":          {request(t, "POST", at("/2015-03-31/functions/f/invocations"), "{}"), "MissingAuthenticationToken"},
		"unsigned form":                {identity("POST", "/", "Action=CreateStack"), "MissingAuthenticationToken"},
		"unsigned moto-api":            {request(t, "POST", at("/moto-api/reset"), ""), "MissingAuthenticationToken"},
		"basic":                        {get("/", "Authorization", "Basic "+me.KeyID), "MissingAuthenticationToken"},
		"bearer":                       {get("/", "Authorization", "Bearer "+me.Secret), "MissingAuthenticationToken"},
		"signature version 4a":         {with(func(r *http.Request) { swap(r, "AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256") }), "MissingAuthenticationToken"},
		"another key id":               {signed(t, get("/"), credentials{KeyID: "AKIAIOSFODNN7EXAMPLE", Secret: me.Secret}, "s3", now), "InvalidClientTokenId"},
		"key id test":                  {signed(t, get("/"), credentials{KeyID: "test", Secret: "test"}, "s3", now), "InvalidClientTokenId"},
		"no key id":                    {signed(t, get("/"), credentials{KeyID: "", Secret: me.Secret}, "s3", now), "InvalidClientTokenId"},
		"key id alone":                 {get("/", "Authorization", "AWS4-HMAC-SHA256 Credential="+me.KeyID+"/20260101/x/s3/aws4_request, SignedHeaders=host, Signature=x"), "ExpiredToken"},
		"key id and date alone":        {get("/", "X-Amz-Date", now.UTC().Format(timeForm), "Authorization", "AWS4-HMAC-SHA256 Credential="+me.KeyID+"/"+now.UTC().Format("20060102")+"/x/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=x"), "SignatureDoesNotMatch"},
		"nothing signed, no signature": {get("/", "X-Amz-Date", now.UTC().Format(timeForm), "Authorization", "AWS4-HMAC-SHA256 Credential="+me.KeyID+"/"+now.UTC().Format("20060102")+"/x/s3/aws4_request, SignedHeaders=, Signature="), "SignatureDoesNotMatch"},
		"another secret":               {signed(t, get("/"), credentials{KeyID: me.KeyID, Secret: "test"}, "s3", now), "SignatureDoesNotMatch"},
		"a token of nobody's":          {signed(t, get("/"), credentials{KeyID: me.KeyID, Secret: me.Secret, Token: "x"}, "s3", now), "InvalidClientTokenId"},
		"issued, without its token":    {signed(t, get("/"), credentials{KeyID: issued.KeyID, Secret: issued.Secret}, "s3", now), "InvalidClientTokenId"},
		"issued, expired":              {signed(t, get("/"), ended, "s3", now), "ExpiredToken"},
		"of yesterday":                 {signed(t, get("/"), me, "s3", now.Add(-24*time.Hour)), "ExpiredToken"},
		"of tomorrow":                  {signed(t, get("/"), me, "s3", now.Add(24*time.Hour)), "ExpiredToken"},
		"presigned, past its end":      {presigned(t, get("/bucket/key"), me, "s3", "UNSIGNED-PAYLOAD", now.Add(-2*time.Minute)), "ExpiredToken"},
		"presigned, prolonged":         {change(presigned(t, get("/b/k"), me, "s3", "UNSIGNED-PAYLOAD", now), "X-Amz-Expires=60", "X-Amz-Expires=600"), "SignatureDoesNotMatch"},
		"presigned for ever":           {change(presigned(t, get("/b/k"), me, "s3", "UNSIGNED-PAYLOAD", now), "X-Amz-Expires=60", "X-Amz-Expires=9999999"), "ExpiredToken"},
		"presigned, another key":       {change(presigned(t, get("/b/k"), me, "s3", "UNSIGNED-PAYLOAD", now), "/b/k", "/b/other"), "SignatureDoesNotMatch"},
		"presigned, another key id":    {presigned(t, get("/b/k"), credentials{KeyID: "AKIAOTHER", Secret: me.Secret}, "s3", "UNSIGNED-PAYLOAD", now), "InvalidClientTokenId"},
		"presigned and signed":         {signed(t, presigned(t, get("/b/k"), me, "s3", "UNSIGNED-PAYLOAD", now), me, "s3", now), "MissingAuthenticationToken"},
		"signed twice":                 {with(func(r *http.Request) { r.Header.Add("Authorization", r.Header.Get("Authorization")) }), "MissingAuthenticationToken"},
		"another path":                 {with(func(r *http.Request) { r.URL.Path = "/bucket/other" }), "SignatureDoesNotMatch"},
		"another query":                {with(func(r *http.Request) { r.URL.RawQuery = "list-type=1" }), "SignatureDoesNotMatch"},
		"a query hard to read":         {with(func(r *http.Request) { r.URL.RawQuery += "&a;b" }), "MissingAuthenticationToken"},
		"another method":               {with(func(r *http.Request) { r.Method = "DELETE" }), "SignatureDoesNotMatch"},
		"another body":                 {with(func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("x")), 1 }), "SignatureDoesNotMatch"},
		"another header":               {with(func(r *http.Request) { r.Header.Set("X-Amz-Meta-A", "2") }), "SignatureDoesNotMatch"},
		"a header not signed":          {with(func(r *http.Request) { r.Header.Set("X-Amz-Target", "secretsmanager.DeleteSecret") }), "SignatureDoesNotMatch"},
		"another service":              {with(func(r *http.Request) { swap(r, "/s3/", "/sts/") }), "SignatureDoesNotMatch"},
		"foreign origin":               {with(func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }), "AccessDenied"},
		"null origin":                  {with(func(r *http.Request) { r.Header.Set("Origin", "null") }), "AccessDenied"},
		"two origins":                  {with(func(r *http.Request) { r.Header["Origin"] = []string{server.URL, server.URL} }), "AccessDenied"},
		"foreign host":                 {host("evil.example:8481", "sqs"), "AccessDenied"},
		"foreign host, S3":             {host("bucket.evil.example", "s3"), "AccessDenied"},
		"below localhost, not S3":      {host("evil.localhost:8481", "lambda"), "AccessDenied"},
		"preflight":                    {request(t, "OPTIONS", at("/2015-03-31/functions/f/invocations"), "", "Origin", "http://evil.example", "Access-Control-Request-Method", "POST"), "AccessDenied"},
		"foreign, by web identity":     {identity("POST", "/", byIdentity+token, "Origin", "http://evil.example"), "AccessDenied"},

		"web identity of another":       {identity("POST", "/", byIdentity+"x"), "InvalidIdentityToken"},
		"web identity, empty":           {identity("POST", "/", byIdentity), "InvalidIdentityToken"},
		"web identity, none":            {identity("POST", "/", "Action=AssumeRoleWithWebIdentity"), "MissingAuthenticationToken"},
		"web identity, two":             {identity("POST", "/", byIdentity+token+"&WebIdentityToken=x"), "MissingAuthenticationToken"},
		"web identity, two actions":     {identity("POST", "/", byIdentity+token+"&Action=CreateStack"), "MissingAuthenticationToken"},
		"web identity, another action":  {identity("POST", "/", "Action=AssumeRoleWithSAML&WebIdentityToken="+token), "MissingAuthenticationToken"},
		"web identity, another path":    {identity("POST", "/2015-03-31/functions/f/invocations", byIdentity+token), "MissingAuthenticationToken"},
		"web identity, another service": {identity("POST", "/", byIdentity+token, "X-Amz-Target", "AWSCognitoIdentityService.ListIdentityPools"), "MissingAuthenticationToken"},
		"web identity, with a scope":    {identity("POST", "/", byIdentity+token, "Authorization", "AWS4-HMAC-SHA256 Credential=x/x/x/lambda/aws4_request"), "InvalidClientTokenId"},
		"web identity in the query":     {identity("POST", "/?"+byIdentity+token, ""), "MissingAuthenticationToken"},
		"web identity, not a form":      {request(t, "POST", at("/"), byIdentity+token, "Content-Type", "text/plain"), "MissingAuthenticationToken"},
	} {
		response, err := http.DefaultTransport.RoundTrip(test.request)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = response.Body.Close()
		got, status := response.Header.Get("Service"), http.StatusOK
		if got == "" {
			got, status = response.Header.Get("X-Amzn-Errortype"), http.StatusForbidden
		}
		if got != test.want || response.StatusCode != status {
			t.Errorf("%s: got %s %s, want %s", name, response.Status, got, test.want)
		}
	}
}

// swap changes the Authorization header.
func swap(r *http.Request, old, by string) {
	r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, by, 1))
}

// change changes the URL.
func change(r *http.Request, old, by string) *http.Request {
	r.URL, _ = r.URL.Parse(strings.Replace(r.URL.String(), old, by, 1))
	return r
}
