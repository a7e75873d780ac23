package config_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/config"
	"iam-token-rotator/functions/internal/rotation"
)

const (
	keyID   = "cb1e238c-d449-4fe7-bd68-04f0c5b59eb1"
	tokenID = "e2dd1896-8c39-4160-b230-92430f439ba9"
	otherID = "0f6d1a52-7a51-4e6e-9a57-55a6f3d1c0de"
	canary  = "canary-5gkHXZ0r8vPw2QmB1sTq"
	account = "0123456789abcdef0123456789abcdef"

	// Both are of one instance at IBM.
	instanceID = "4a0225e9-17a0-46c1-ace7-f25bcf4237d4"
	ibmURL     = "https://" + instanceID + ".us-south.secrets-manager.appdomain.cloud"

	secretARN    = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:iam-token-Ab12Cd"
	keyARN       = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rotator-secret-Ab12Cd"
	parameterARN = "arn:aws:ssm:eu-central-1:123456789012:parameter/"
	busARN       = "arn:aws:events:eu-north-1:123456789012:event-bus/"
)

type changes map[string]string

// listed replaces the single rotation by a list of entries.
func listed(entries ...string) changes {
	return changes{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS": "[" + strings.Join(entries, ",") + "]"}
}

func entry(name, more string) string {
	return `{"name":"` + name + `","api_key_secret":"` + keyID + `","token_secret":"` + tokenID + `"` + more + `}`
}

// mirrored configures two rotations with these mirrors, and a bootstrap key in AWS.
func mirrored(first, second string) changes {
	set := listed(`{"name":"a","api_key_secret":"keys/mine","token_secret":"`+tokenID+`","mirror":`+first+`}`,
		`{"name":"b","api_key_secret":"keys/mine","token_secret":"`+otherID+`","mirror":`+second+`}`)
	set["SECRETS_MANAGER_APIKEY"], set["SECRETS_MANAGER_APIKEY_ARN"] = "", keyARN
	return set
}

func crn(instance, secret string) string {
	return "crn:v1:bluemix:public:secrets-manager:us-south:a/" + strings.Repeat("0", 32) + ":" + instance + ":secret:" + secret
}

// minimal is a configuration with only what is required.
var minimal = map[string]string{
	"SECRETS_MANAGER_URL":    "https://instance.us-south.secrets-manager.appdomain.cloud",
	"SECRETS_MANAGER_APIKEY": canary,
	"API_KEY_SECRET":         keyID,
	"TOKEN_SECRET":           tokenID,
}

// load loads the minimal configuration with changes; an empty value unsets.
func load(changed changes) (config.Config, error) {
	set := maps.Clone(minimal)
	maps.Copy(set, changed)
	var environ []string
	for name, value := range set {
		environ = append(environ, name+"="+value)
	}
	return config.Load(environ, func(name string) ([]byte, error) {
		if name == "rotations.json" {
			return []byte("[" + entry("from-file", "") + "]"), nil
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	})
}

// defaults is what the minimal configuration means.
func defaults() config.Config {
	return config.Config{
		SecretsManagerURL: minimal["SECRETS_MANAGER_URL"], IAMURL: "https://iam.cloud.ibm.com",
		Credential:   config.Credential{Variable: "SECRETS_MANAGER_APIKEY", APIKey: iamtoken.NewSecret(canary)},
		MinRemaining: 8 * time.Minute, RotationInterval: 50 * time.Minute, MaxRPS: 15, Concurrency: 16, MetricsNamespace: "IAMTokenRotator",
		Rotations: []rotation.Rotation{{Name: "default", APIKey: rotation.KeyRef{ID: keyID}, Token: rotation.TokenRef{ID: tokenID, Format: iamtoken.Raw}}},
	}
}

// Each row changes only what its variables say, and nothing else of the defaults.
func TestEveryVariableCounts(t *testing.T) {
	credential := func(c config.Credential) func(*config.Config) { return func(cfg *config.Config) { cfg.Credential = c } }
	region := func(bus, region string) func(*config.Config) {
		return func(cfg *config.Config) { cfg.EventBus, cfg.EventBusRegion = bus, region }
	}
	key := func(ref rotation.KeyRef) func(*config.Config) {
		return func(cfg *config.Config) { cfg.Rotations[0].APIKey = ref }
	}
	managed := func(ref rotation.KeyRef) func(*config.Config) {
		return func(cfg *config.Config) {
			cfg.ManagedKey, cfg.Credential = ref, config.Credential{Variable: "SECRETS_MANAGER_APIKEY_ARN", APIKeyARN: keyARN}
		}
	}
	for name, test := range map[string]struct {
		changes changes
		differ  func(*config.Config)
	}{
		"none": {nil, func(*config.Config) {}},
		"URLs and limits": {changes{"SECRETS_MANAGER_URL": "http://127.0.0.1:8480/", "IAM_URL": "https://private.iam.cloud.ibm.com", "MIN_REMAINING": "9m",
			"ROTATION_INTERVAL": " 10m\n", "SECRETS_MANAGER_MAX_RPS": "0", "CONCURRENCY": "1", "METRICS_NAMESPACE": "Mine/1", "LOG_LEVEL": "debug", "BOOTSTRAP_EXPIRES_AT": "2026-01-31"},
			func(cfg *config.Config) {
				cfg.SecretsManagerURL, cfg.IAMURL, cfg.MinRemaining, cfg.RotationInterval = "http://127.0.0.1:8480", "https://private.iam.cloud.ibm.com", 9*time.Minute, 10*time.Minute
				cfg.MaxRPS, cfg.Concurrency, cfg.MetricsNamespace, cfg.LogLevel = 0, 1, "Mine/1", config.Level(slog.LevelDebug)
				cfg.BootstrapExpiresAt.Time = time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)
			}},
		"the rotation": {changes{"API_KEY_SECRET": "keys/kv/mine", "TOKEN_FORMAT": "bearer", "EXPECT_ACCOUNT": account, "EXPECT_IAM_ID": "iam-ServiceId-1", "BOOTSTRAP_EXPIRES_AT": "2026-01-31T12:00:00Z"}, func(cfg *config.Config) {
			cfg.BootstrapExpiresAt.Time = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
			cfg.Rotations[0] = rotation.Rotation{Name: "default", APIKey: rotation.KeyRef{Group: "keys", Type: "kv", Name: "mine"},
				Token: rotation.TokenRef{ID: tokenID, Format: iamtoken.Bearer}, Expect: rotation.Expect{Account: account, IAMID: "iam-ServiceId-1"}}
		}},
		"a list": {listed(`{"name":"a","api_key_secret":"keys/mine","token_secret":"`+tokenID+`","format":"json","expect":{"account":"`+account+`","iam_id":"iam-ServiceId-1"},
				"mirror":["`+secretARN+`","`+strings.Replace(secretARN, "aws", "aws-cn", 1)+`","`+parameterARN+`a_B.1-c","`+parameterARN+`tokens/logs"]}`,
			`{"name":"b","api_key_secret":"`+strings.ToUpper(keyID)+`","api_key_field":"k","token_secret":"`+otherID+`","token_field":"t"}`), func(cfg *config.Config) {
			cfg.Rotations = []rotation.Rotation{{Name: "a", APIKey: rotation.KeyRef{Group: "keys", Type: "arbitrary", Name: "mine"}, Token: rotation.TokenRef{ID: tokenID, Format: iamtoken.JSON},
				Expect: rotation.Expect{Account: account, IAMID: "iam-ServiceId-1"}, Mirror: []string{secretARN, strings.Replace(secretARN, "aws", "aws-cn", 1), parameterARN + "a_B.1-c", parameterARN + "tokens/logs"},
			}, {Name: "b", APIKey: rotation.KeyRef{ID: keyID, Field: "k"}, Token: rotation.TokenRef{ID: otherID, Field: "t", Format: iamtoken.Raw}}}
		}},
		"a list's format": {changes{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "TOKEN_FORMAT": "bearer", "ROTATIONS": "[" + entry("a", "") + "]"}, func(cfg *config.Config) {
			cfg.Rotations[0].Name, cfg.Rotations[0].Token.Format = "a", iamtoken.Bearer
		}},
		"a file": {changes{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS_FILE": "rotations.json"}, func(cfg *config.Config) { cfg.Rotations[0].Name = "from-file" }},

		"a token that does not count": {changes{"IAM_TOKEN": "Bearer " + canary}, func(*config.Config) {}},
		"a key in AWS":                {changes{"SECRETS_MANAGER_APIKEY": "", "SECRETS_MANAGER_APIKEY_ARN": keyARN}, managed(rotation.KeyRef{})},
		"a profile, and white space": {changes{"SECRETS_MANAGER_APIKEY": " \n", "IAM_PROFILE_NAME": " rotator\n", "CR_TOKEN_FILENAME": "/token", "MIN_REMAINING": "", "IAM_TOKEN": "Bearer "},
			credential(config.Credential{Variable: "IAM_PROFILE_NAME", ProfileName: "rotator", CRTokenFilename: "/token"})},
		"a profile's id": {changes{"SECRETS_MANAGER_APIKEY": "", "IAM_PROFILE_ID": "Profile-1"}, credential(config.Credential{Variable: "IAM_PROFILE_ID", ProfileID: "Profile-1"})},
		"a token": {changes{"SECRETS_MANAGER_APIKEY": "", "IAM_TOKEN": "IAM token:  bEARER\t" + canary + "\nUAA token:  Bearer x"},
			credential(config.Credential{Variable: "IAM_TOKEN", Token: iamtoken.NewSecret(canary)})},
		"a managed key": {changes{"BOOTSTRAP_KEY_SECRET": "keys/iam_credentials/mine", "SECRETS_MANAGER_APIKEY": "", "SECRETS_MANAGER_APIKEY_ARN": keyARN},
			managed(rotation.KeyRef{Group: "keys", Type: "iam_credentials", Name: "mine"})},
		"its id": {changes{"BOOTSTRAP_KEY_SECRET": strings.ToUpper(otherID), "SECRETS_MANAGER_APIKEY": "", "SECRETS_MANAGER_APIKEY_ARN": keyARN}, managed(rotation.KeyRef{ID: otherID})},

		"a bus":             {changes{"EVENT_BUS_NAME": "my.tokens_2-a", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "eu-west-1"}, region("my.tokens_2-a", "us-east-1")},
		"elsewhere":         {changes{"EVENT_BUS_NAME": "default", "AWS_DEFAULT_REGION": "eu-west-1"}, region("default", "eu-west-1")},
		"its ARN":           {changes{"EVENT_BUS_NAME": busARN + strings.Repeat("x", 256), "AWS_REGION": "us-east-1"}, region(busARN+strings.Repeat("x", 256), "eu-north-1")},
		"another partition": {changes{"EVENT_BUS_NAME": strings.Replace(busARN, "aws", "aws-us-gov", 1) + "x"}, region(strings.Replace(busARN, "aws", "aws-us-gov", 1)+"x", "eu-north-1")},

		"id with its type":         {changes{"API_KEY_SECRET": "iam_credentials/" + keyID}, func(*config.Config) {}},
		"and another":              {changes{"API_KEY_SECRET": "service_credentials/" + keyID}, func(*config.Config) {}},
		"a name may look like one": {changes{"API_KEY_SECRET": "group/" + keyID}, key(rotation.KeyRef{Group: "group", Type: "arbitrary", Name: keyID})},
		"a group like a type":      {changes{"API_KEY_SECRET": "kv/name"}, key(rotation.KeyRef{Group: "kv", Type: "arbitrary", Name: "name"})},
		"an id for a kv's name":    {changes{"API_KEY_SECRET": "group/kv/" + keyID}, key(rotation.KeyRef{Group: "group", Type: "kv", Name: keyID})},
	} {
		cfg, err := load(test.changes)
		want := defaults()
		test.differ(&want)
		if cfg.EventBus == "" {
			cfg.EventBusRegion = "" // not used without a bus
		}
		if err != nil || !reflect.DeepEqual(cfg, want) {
			t.Errorf("%s: got %+v, %v\nwant %+v", name, cfg, err, want)
		}
	}
}

func TestIDsInTheFormsOfOtherTools(t *testing.T) {
	for _, url := range []string{ibmURL, strings.Replace(ibmURL, ".us-south", ".private.us-south", 1), "http://127.0.0.1:8480"} {
		for _, form := range []string{"ID", "arbitrary/ID", "kv/ID", "us-south/" + instanceID + "/ID", "us-south/" + strings.ToUpper(instanceID) + "/ID", crn(instanceID, "ID")} {
			cfg, err := load(changes{"SECRETS_MANAGER_URL": url, "API_KEY_SECRET": strings.ReplaceAll(form, "ID", strings.ToUpper(keyID)), "TOKEN_SECRET": strings.ReplaceAll(form, "ID", tokenID)})
			if err != nil || !reflect.DeepEqual(cfg.Rotations, defaults().Rotations) {
				t.Errorf("%s at %s: got %+v, %v; want the ids", form, url, cfg.Rotations, err)
			}
		}
	}
}

// IBM's host names, public and private, and other origins.
func TestEndpoints(t *testing.T) {
	for _, url := range []string{
		"https://private.us-south.iam.cloud.ibm.com", "https://iam.test.cloud.ibm.com:443/", ibmURL, strings.Replace(ibmURL, ".us-south", ".private.us-south", 1) + "/",
		"https://[2001:db8::1]:8443", "http://localhost:8480", "http://[::1]:8480", "https://nullable.us-south.appdomain.cloud", "https://annull.x", "https://127.0.0.1", "https://a_b-c.x:443",
	} {
		cfg, err := load(changes{"SECRETS_MANAGER_URL": url, "IAM_URL": url, "HTTPS_PROXY": url, "AWS_ENDPOINT_URL": url})
		if want := strings.TrimSuffix(url, "/"); err != nil || cfg.IAMURL != want || cfg.SecretsManagerURL != want {
			t.Errorf("%s: got %q, %q, %v; want it accepted", url, cfg.IAMURL, cfg.SecretsManagerURL, err)
		}
	}
}

func TestProblemsNameTheVariableAndSayWhatToDo(t *testing.T) {
	for name, test := range map[string]struct {
		changes changes
		want    string
	}{
		"no URL":                        {changes{"SECRETS_MANAGER_URL": ""}, "SECRETS_MANAGER_URL: is required"},
		"a password":                    {changes{"SECRETS_MANAGER_URL": "https://user:" + canary + "@host"}, "more than an origin"},
		"another scheme":                {changes{"IAM_URL": "ftp://127.0.0.1"}, "must begin with https://"},
		"a key for a secret":            {changes{"API_KEY_SECRET": canary}, "API_KEY_SECRET: names no secret"},
		"a type without keys":           {changes{"API_KEY_SECRET": "group/username_password/name"}, "use arbitrary, kv"},
		"a name for the token":          {changes{"TOKEN_SECRET": "group/name"}, "TOKEN_SECRET: is no secret id, such as e2dd1896-"},
		"only one of the pair":          {changes{"TOKEN_SECRET": ""}, "TOKEN_SECRET: is not set: it is the id"},
		"the other of the pair":         {changes{"API_KEY_SECRET": ""}, "API_KEY_SECRET: is not set: it names"},
		"two sources":                   {changes{"ROTATIONS": "[]"}, "rotations: API_KEY_SECRET and TOKEN_SECRET and ROTATIONS are set: set exactly one"},
		"two lists":                     {changes{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS": "[]", "ROTATIONS_FILE": "x"}, "rotations: ROTATIONS and ROTATIONS_FILE are set"},
		"no source":                     {changes{"API_KEY_SECRET": "", "TOKEN_SECRET": ""}, "rotations: are required: set API_KEY_SECRET and TOKEN_SECRET, or ROTATIONS, or ROTATIONS_FILE"},
		"expect of default":             {changes{"EXPECT_ACCOUNT": "mine", "EXPECT_IAM_ID": "somebody"}, "EXPECT_ACCOUNT: is not an account id, which has 32 hexadecimal digits\nEXPECT_IAM_ID: is not an IAM id"},
		"two lines of key":              {changes{"SECRETS_MANAGER_APIKEY": canary + "\nmore"}, "is not an API key on one line"},
		"a key in quotes":               {changes{"SECRETS_MANAGER_APIKEY": `'` + canary + `'`}, "SECRETS_MANAGER_APIKEY: is in quotes"},
		"a token in quotes":             {changes{"SECRETS_MANAGER_APIKEY": "", "IAM_TOKEN": `"Bearer ` + canary + `"`}, "IAM_TOKEN: holds characters that no token has"},
		"another instance":              {changes{"SECRETS_MANAGER_URL": ibmURL, "API_KEY_SECRET": "us-south/" + tokenID + "/" + keyID}, "API_KEY_SECRET: names a secret of another instance than SECRETS_MANAGER_URL"},
		"another one's CRN":             {changes{"SECRETS_MANAGER_URL": ibmURL, "TOKEN_SECRET": crn(keyID, tokenID)}, "TOKEN_SECRET: names a secret of another instance than SECRETS_MANAGER_URL"},
		"the CRN of a group":            {changes{"API_KEY_SECRET": strings.Replace(crn(keyID, keyID), ":secret:", ":secret-group:", 1)}, "API_KEY_SECRET: is not the CRN of one secret"},
		"the instance's CRN":            {changes{"TOKEN_SECRET": "crn:v1:bluemix:public:secrets-manager:us-south:a/" + strings.Repeat("0", 32) + ":" + keyID + "::"}, "TOKEN_SECRET: is not the CRN of one secret"},
		"a type without key":            {changes{"API_KEY_SECRET": "username_password/" + keyID}, "API_KEY_SECRET: names a secret of type username_password: use arbitrary, kv"},
		"a type without token":          {changes{"TOKEN_SECRET": "iam_credentials/" + tokenID}, "TOKEN_SECRET: names a secret of type iam_credentials: use arbitrary, kv"},
		"a group and an id":             {changes{"TOKEN_SECRET": "group/" + tokenID}, "TOKEN_SECRET: is no secret id"},
		"the key's other form":          {changes{"TOKEN_SECRET": "arbitrary/" + strings.ToUpper(keyID)}, "the token would replace the API key"},
		"format":                        {changes{"TOKEN_FORMAT": "jwt"}, "TOKEN_FORMAT: not a format: use raw, bearer or json"},
		"threshold":                     {changes{"MIN_REMAINING": "2h"}, "MIN_REMAINING: 2h0m0s is not a useful threshold"},
		"no unit":                       {changes{"MIN_REMAINING": "8"}, "MIN_REMAINING: is not a duration: use 8m"},
		"interval":                      {changes{"ROTATION_INTERVAL": "0s"}, "ROTATION_INTERVAL"},
		"negative rate":                 {changes{"SECRETS_MANAGER_MAX_RPS": "-1"}, "SECRETS_MANAGER_MAX_RPS: -1 is negative"},
		"no number":                     {changes{"CONCURRENCY": "many"}, "CONCURRENCY: is not a whole number"},
		"too large a number":            {changes{"CONCURRENCY": "9223372036854775807"}, "CONCURRENCY: is not a whole number, or is too large"},
		"no concurrency":                {changes{"CONCURRENCY": "0"}, "CONCURRENCY: 0 leaves nothing to run"},
		"namespace":                     {changes{"METRICS_NAMESPACE": "a b"}, "METRICS_NAMESPACE"},
		"level":                         {changes{"LOG_LEVEL": "loud"}, "LOG_LEVEL: \"loud\" is not a level: use debug, info, warn or error"},
		"date":                          {changes{"BOOTSTRAP_EXPIRES_AT": "soon"}, "BOOTSTRAP_EXPIRES_AT: \"soon\" is not a date"},
		"managed without AWS":           {changes{"BOOTSTRAP_KEY_SECRET": "group/iam_credentials/name"}, "BOOTSTRAP_KEY_SECRET: needs SECRETS_MANAGER_APIKEY_ARN"},
		"a key nobody renews":           {changes{"BOOTSTRAP_KEY_SECRET": "group/name"}, "BOOTSTRAP_KEY_SECRET: names a secret of another type: use iam_credentials"},
		"another tool's form":           {changes{"BOOTSTRAP_KEY_SECRET": "arbitrary/" + keyID}, "BOOTSTRAP_KEY_SECRET: names a secret of type arbitrary: use iam_credentials"},
		"the workload's key":            {changes{"BOOTSTRAP_KEY_SECRET": keyID}, "BOOTSTRAP_KEY_SECRET: is a secret of rotation default too"},
		"the token's secret":            {changes{"BOOTSTRAP_KEY_SECRET": tokenID}, "BOOTSTRAP_KEY_SECRET: is a secret of rotation default too"},
		"no such file":                  {changes{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS_FILE": "nowhere.json"}, "ROTATIONS_FILE: the file cannot be read: file does not exist"},
		"malformed list":                {changes{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS": `[{"name":"a"`}, "ROTATIONS: is not a JSON list of rotations: it ends too early"},
		"an object":                     {changes{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS": `{"name":"a"}`}, "it must be a list of objects"},
		"empty list":                    {listed(), "the list is empty"},
		"something after it":            {changes{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS": "[" + entry("a", "") + "] []"}, "something follows the list"},
		"misspelt field":                {listed(entry("a", ""), `{"nam":"x"}`), `ROTATIONS[1]: unknown field "nam": an entry may have name, api_key_secret, `},
		"no object":                     {listed(`1,null`), "ROTATIONS[0]: must be an object with name, api_key_secret, api_key_field, token_secret, token_field, format, expect{account, iam_id} and mirror\nROTATIONS[1]: must"},
		"an index after a gap":          {listed(`{"nam":"x"}`, entry("", "")), "ROTATIONS[1]: name: use"},
		"no token secret":               {listed(`{"name":"a","api_key_secret":"g/n"}`), `ROTATIONS "a" token_secret: is not set`},
		"expect with a list":            {changes{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS": "[]", "EXPECT_IAM_ID": "iam-ServiceId-1"}, "EXPECT_IAM_ID: goes only with API_KEY_SECRET and TOKEN_SECRET: with ROTATIONS, unset it"},
		"no name":                       {listed(entry("", "")), `ROTATIONS[0]: name: use 1 to 40`},
		"odd name":                      {listed(entry("a b", "")), `ROTATIONS[0]: name: use 1 to 40`},
		"a token secret twice":          {listed(entry("a", ""), entry("b", "")), `token_secret is that of "a" too`},
		"account":                       {listed(entry("a", `,"expect":{"account":"mine"}`)), "expect.account"},
		"identity":                      {listed(entry("a", `,"expect":{"iam_id":"somebody"}`)), "expect.iam_id: is not an IAM id"},
		"wrong type":                    {listed(entry("a", `,"api_key_field":1`)), "the field api_key_field has the wrong type"},
		"a syntax error":                {listed(`{"name" "a"}`), "a syntax error at character 10"},
		"AWS in the clear":              {changes{"AWS_ENDPOINT_URL": "http://example.com"}, "AWS_ENDPOINT_URL: must begin with https://"},
		"a proxy after a space":         {changes{"HTTPS_PROXY": " http://user:" + canary + "@proxy:3128"}, "HTTPS_PROXY: is not a proxy's URL"},
		"a question mark":               {changes{"IAM_URL": "https://iam.cloud.ibm.com?"}, "more than an origin"},
		"the way up":                    {changes{"API_KEY_SECRET": "group/.."}, "names no secret"},
		"names of one character":        {changes{"API_KEY_SECRET": "g/n"}, "group and name have at least 2 characters"},
		"the key for the token":         {changes{"TOKEN_SECRET": strings.ToUpper(keyID)}, "the token would replace the API key"},
		"another one's key":             {listed(entry("a", ""), `{"name":"b","api_key_secret":"g/n","token_secret":"`+keyID+`"}`), `rotation b: its token secret is a key secret`},
		"misspelt in expect":            {listed(entry("a", `,"expect":{"iamid":"x"}`)), `unknown field "iamid"`},
		"a field twice":                 {listed(entry("a", `,"token_secret":"`+keyID+`"`)), `ROTATIONS[0]: the field "token_secret" is there twice`},
		"in another case":               {listed(entry("a", `,"Mirror":[],"mirror":[]`)), `ROTATIONS[0]: the field "mirror" is there twice`},
		"twice in expect":               {listed(entry("a", `,"expect":{"account":"","account":""}`)), `the field "account" is there twice`},
		"all of a list":                 {listed(entry("a", `,"format":"jwt"`), entry("a", "")), "ROTATIONS \"a\" format: not a format: use raw, bearer or json\nROTATIONS[1]: name \"a\" is used twice"},
		"mirror: no ARN":                {mirrored(`["iam-token"]`, `[]`), "rotation a mirror[0]: is not the ARN"},
		"mirror: of another service":    {mirrored(`["arn:aws:s3:::bucket"]`, `[]`), "is not the ARN"},
		"mirror: a key for an ARN":      {mirrored(`["`+canary+`"]`, `[]`), "is not the ARN"},
		"mirror: twice":                 {mirrored(`["`+secretARN+`","`+secretARN+`"]`, `[]`), `rotation a mirror[1]: is rotation "a"'s`},
		"mirror: another rotation's":    {mirrored(`["`+secretARN+`"]`, `["`+secretARN+`"]`), `rotation b mirror[0]: is rotation "a"'s`},
		"mirror: the bootstrap key's":   {mirrored(`["`+keyARN+`"]`, `[]`), "the bootstrap API key's"},
		"mirror: without suffix":        {mirrored(`["arn:aws:secretsmanager:eu-central-1:123456789012:secret:iam-token"]`, `[]`), "is not a whole ARN"},
		"mirror: its own, partial":      {mirrored(`["arn:aws:secretsmanager:eu-central-1:123456789012:secret:rotator-secret"]`, `[]`), "the bootstrap API key's"},
		"mirror: its own, elsewhere":    {mirrored(`["arn:aws:secretsmanager:us-east-1:123456789012:secret:rotator-secret-Ab12Cd"]`, `[]`), "the bootstrap API key's"},
		"mirror: a parameter's version": {mirrored(`["`+parameterARN+`logs:3"]`, `[]`), "is not the ARN of a parameter"},
		"mirror: an empty part":         {mirrored(`["`+parameterARN+`a//b"]`, `[]`), "is not the ARN of a parameter"},
		"mirror: without a name":        {mirrored(`["`+parameterARN+`"]`, `[]`), "is not the ARN of a parameter"},
		"mirror: a name that ends in /": {mirrored(`["`+parameterARN+`a/"]`, `[]`), "is not the ARN of a parameter"},
		"mirror: a name that is long":   {mirrored(`["`+parameterARN+strings.Repeat("a", 1011)+`"]`, `[]`), "is not the ARN of a parameter"},
		"mirror: any parameter":         {mirrored(`["`+parameterARN+`*"]`, `[]`), "is not the ARN of a parameter"},
		"mirror: a parameter's name":    {mirrored(`["/tokens/logs"]`, `[]`), "is not the ARN"},
		"mirror: a line end":            {mirrored(`["`+secretARN+`\nx"]`, `[]`), "is not the ARN"},
		"mirror: a document of SSM":     {mirrored(`["arn:aws:ssm:eu-central-1:123456789012:document/logs"]`, `[]`), "is not the ARN of a parameter"},
		"mirror: another account's":     {mirrored(`["arn:aws:ssm:eu-central-1:12345:parameter/logs"]`, `[]`), "is not the ARN of a parameter"},
		"mirror: a parameter twice":     {mirrored(`["`+parameterARN+`logs"]`, `["`+parameterARN+`logs"]`), `rotation b mirror[0]: is rotation "a"'s`},
		"mirror: text, and not a list":  {mirrored(`"`+secretARN+`"`, `[]`), "mirror has the wrong type"},
		"mirror: of a partial key": {changes{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "SECRETS_MANAGER_APIKEY": "", "SECRETS_MANAGER_APIKEY_ARN": strings.TrimSuffix(keyARN, "-Ab12Cd"),
			"ROTATIONS": "[" + entry("a", `,"mirror":["`+keyARN+`"]`) + "]"}, "the bootstrap API key's"},
		"bus: no region":             {changes{"EVENT_BUS_NAME": "tokens", "AWS_REGION": ""}, "EVENT_BUS_NAME: is a bus's name, and AWS_REGION does not say in which region"},
		"bus: a host for a region":   {changes{"EVENT_BUS_NAME": "tokens", "AWS_REGION": "us-east-1.example.com/"}, "EVENT_BUS_NAME: is a bus's name, and AWS_REGION does not say in which region"},
		"bus: two words for region":  {changes{"EVENT_BUS_NAME": "tokens", "AWS_REGION": "us east"}, "EVENT_BUS_NAME: is a bus's name, and AWS_REGION does not say in which region"},
		"bus: a partner's":           {changes{"EVENT_BUS_NAME": "aws.partner/example.com/x", "AWS_REGION": "us-east-1"}, "EVENT_BUS_NAME: is neither the name of an EventBridge bus"},
		"bus: two words":             {changes{"EVENT_BUS_NAME": "two words", "AWS_REGION": "us-east-1"}, "EVENT_BUS_NAME: is neither the name of an EventBridge bus"},
		"bus: a long name":           {changes{"EVENT_BUS_NAME": strings.Repeat("x", 41), "AWS_REGION": "us-east-1"}, "EVENT_BUS_NAME: is neither the name of an EventBridge bus"},
		"bus: no name":               {changes{"EVENT_BUS_NAME": busARN, "AWS_REGION": "us-east-1"}, "EVENT_BUS_NAME: is neither the name of an EventBridge bus"},
		"bus: a part":                {changes{"EVENT_BUS_NAME": busARN + "a/b", "AWS_REGION": "us-east-1"}, "EVENT_BUS_NAME: is neither the name of an EventBridge bus"},
		"bus: another service":       {changes{"EVENT_BUS_NAME": strings.Replace(busARN, ":events:", ":sqs:", 1) + "x", "AWS_REGION": "us-east-1"}, "EVENT_BUS_NAME: is neither the name of an EventBridge bus"},
		"bus: an ARN without region": {changes{"EVENT_BUS_NAME": strings.Replace(busARN, "eu-north-1", "", 1) + "x", "AWS_REGION": "us-east-1"}, "EVENT_BUS_NAME: is neither the name of an EventBridge bus"},
		"bus: a rule":                {changes{"EVENT_BUS_NAME": strings.Replace(busARN, "event-bus", "rule", 1) + "x", "AWS_REGION": "us-east-1"}, "EVENT_BUS_NAME: is neither the name of an EventBridge bus"},
		"URL: private, in the clear": {changes{"SECRETS_MANAGER_URL": strings.Replace(ibmURL, "https", "http", 1)}, "must begin with https://"},
		"URL: IAM, in the clear":     {changes{"IAM_URL": "http://private.iam.cloud.ibm.com"}, "IAM_URL: must begin with https://"},
		"URL: of a network":          {changes{"SECRETS_MANAGER_URL": "http://10.0.0.1"}, "must begin with https://"},
		"URL: like localhost":        {changes{"SECRETS_MANAGER_URL": "http://localhost.example.com"}, "must begin with https://"},
		"URL: like loopback":         {changes{"SECRETS_MANAGER_URL": "http://127.0.0.1.example.com"}, "must begin with https://"},
		"URL: a path":                {changes{"IAM_URL": "https://private.iam.cloud.ibm.com/identity/token"}, "IAM_URL: is more than an origin"},
		"URL: a user":                {changes{"IAM_URL": "https://iam.cloud.ibm.com@example.com"}, "more than an origin"},
		"URL: no scheme":             {changes{"IAM_URL": "private.iam.cloud.ibm.com"}, "IAM_URL: is not a URL"},
		"identity: none":             {changes{"SECRETS_MANAGER_APIKEY": "", "IAM_TOKEN": "Bearer "}, "bootstrap identity: is required: set one of SECRETS_MANAGER_APIKEY, "},
		"identity: a second":         {changes{"IAM_PROFILE_ID": "Profile-1"}, "bootstrap identity: SECRETS_MANAGER_APIKEY and IAM_PROFILE_ID are set: set exactly one"},
		"identity: two profiles":     {changes{"SECRETS_MANAGER_APIKEY": "", "IAM_PROFILE_ID": "Profile-1", "IAM_PROFILE_NAME": "rotator"}, "IAM_PROFILE_NAME and IAM_PROFILE_ID are set"},
	} {
		_, err := load(test.changes)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want it to say %s", name, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("%s: the problem repeats the key", name)
		}
	}
}

func TestPlaceholdersInAHost(t *testing.T) {
	for _, host := range []string{
		"<instance>.us-south.appdomain.cloud", "$ID.us-south.appdomain.cloud", "${ID}.us-south.appdomain.cloud", "{instance}.us-south.appdomain.cloud", "instance>.cloud",
		"(instance).appdomain.cloud", "[instance-id].appdomain.cloud", "%INSTANCE%.appdomain.cloud",
		".us-south.appdomain.cloud", "instance..appdomain.cloud", "instance.us-south.", "null.us-south.appdomain.cloud", "instance.NULL.appdomain.cloud", "null",
		"undefined.us-south.appdomain.cloud", "….secrets-manager.appdomain.cloud", "<host>:8443", ":8443", "null:8443",
	} {
		for _, name := range []string{"SECRETS_MANAGER_URL", "IAM_URL", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_CONTAINER_CREDENTIALS_FULL_URI"} {
			for _, url := range []string{"https://" + host, "https://" + host + "/"} {
				_, err := load(changes{name: url})
				if err == nil || !strings.Contains(err.Error(), name+": ") || strings.Contains(err.Error(), url) {
					t.Errorf("%s=%s: got %v, want a problem that does not repeat it", name, url, err)
				}
			}
		}
		if _, err := load(changes{"HTTPS_PROXY": host}); err == nil {
			t.Errorf("HTTPS_PROXY=%s: got no problem", host)
		}
	}
}

// A namespace that CloudWatch would drop is replaced, so that the failure is counted.
func TestAllProblemsAreReportedTogether(t *testing.T) {
	cfg, err := load(changes{"SECRETS_MANAGER_URL": "", "SECRETS_MANAGER_APIKEY": "", "API_KEY_SECRET": "", "TOKEN_SECRET": "",
		"IAM_URL": "http://x", "LOG_LEVEL": "loud", "CONCURRENCY": "x", "MIN_REMAINING": "2h", "METRICS_NAMESPACE": "a b"})
	for _, name := range []string{"SECRETS_MANAGER_URL", "IAM_URL", "LOG_LEVEL", "CONCURRENCY", "MIN_REMAINING", "METRICS_NAMESPACE", "bootstrap identity", "rotations"} {
		if err == nil || !strings.Contains(err.Error(), name+": ") {
			t.Errorf("got %v, want %s among the problems", err, name)
		}
	}
	if got := strings.Count(err.Error(), "\n") + 1; got != 8 || cfg.MetricsNamespace != "IAMTokenRotator" {
		t.Errorf("got %d problems and the namespace %q, want 8 and the default: %v", got, cfg.MetricsNamespace, err)
	}
	_, err = load(listed(slices.Repeat([]string{`{"name":""}`}, 100_000)...))
	if err == nil || len(err.Error()) > 8<<10 || !strings.HasSuffix(err.Error(), "more problems, not listed") {
		t.Errorf("got %.200v, want the first problems and how many more there are", err)
	}
}

// People paste into the wrong place.
func TestNoProblemRepeatsAKeyWhereverItWasPut(t *testing.T) {
	key := canary + strings.Repeat("x", 44-len(canary))
	cases := []changes{{"METRICS_NAMESPACE": key + " " + key}, {"EVENT_BUS_NAME": key, "AWS_REGION": "us-east-1"}, {"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS_FILE": key}}
	for _, name := range []string{
		"SECRETS_MANAGER_URL", "IAM_URL", "SECRETS_MANAGER_APIKEY_ARN", "IAM_PROFILE_ID", "API_KEY_SECRET", "TOKEN_SECRET", "ROTATIONS",
		"TOKEN_FORMAT", "MIN_REMAINING", "ROTATION_INTERVAL", "SECRETS_MANAGER_MAX_RPS", "CONCURRENCY", "LOG_LEVEL", "BOOTSTRAP_EXPIRES_AT", "BOOTSTRAP_KEY_SECRET",
	} {
		cases = append(cases, changes{name: canary})
	}
	for _, entry := range []string{
		`{"name":"KEY"}`, `{"name":"KEY KEY"}`, `{"api_key_secret":"KEY"}`, `{"api_key_secret":"g/KEY/n"}`, `{"token_secret":"KEY"}`, `{"format":"KEY"}`,
		`{"expect":{"account":"KEY"}}`, `{"expect":{"iam_id":"KEY"}}`, `{"KEY":1}`, `{"mirror":["KEY"]}`, `{"mirror":"KEY"}`, `{"name":"KEY"`, `"KEY"`,
	} {
		cases = append(cases, listed(strings.ReplaceAll(entry, "KEY", key)))
	}
	for _, changes := range cases {
		if _, err := load(changes); err == nil || strings.Contains(err.Error(), canary[:12]) {
			t.Errorf("%v: got no problem, or one that repeats the key", slices.Sorted(maps.Keys(changes)))
		}
	}
}

// Any environment is either understood completely or rejected, and no problem repeats a key.
func FuzzConfiguration(f *testing.F) {
	f.Add("https://sm.test", `[{"name":"a","api_key_secret":"g/n","token_secret":"`+tokenID+`"}]`, "8m", "20", "raw", "2026-01-31")
	f.Add("http://127.0.0.1:8480/", `[{"name":"a","api_key_secret":"g/kv/n","api_key_field":"k","token_secret":"`+tokenID+`","format":"bearer","expect":{"account":"0123456789abcdef0123456789abcdef"}}]`, "", "0", "json", "")
	f.Add("", "", "", "", "", "")
	f.Add("https://u:p@host/?q#f", "[]", "-1s", "-1", "xml", "tomorrow")
	f.Add("http://example.com", `{"name":"a"}`, "61m", "9999999999999999999999", "raw\x00", "2026-02-30")
	f.Add("https://sm.test", `[{"name":"a","mirror":["arn:aws:secretsmanager:us-east-1:123456789012:secret:x"]}]`, "8m", "20", "raw", "2026-01-31T12:00:00Z")
	f.Add("https://[::1", `[{"name":"a"},{"name":"a"}] x`, "1h", "1e3", "RAW", "0001-01-01")
	f.Add("http://0.0.0.A", "\xe6", "0", "0", "0", "\x1b")
	f.Add("\xf3 ", "[{\"\":\"\"},{\"\x00", "0", "0", "־", "0")
	f.Add("!  0 0", "-1", "", "A", "0", "")
	f.Add("A00", "", "", "", "", "\xb2\xce\xfe\xfe")
	f.Fuzz(func(t *testing.T, url, rotations, minRemaining, rps, format, expires string) {
		const key = "canary-key-5gkHXZ0r8vPw2QmB1sTqL9fYc3nA7eR"
		cfg, err := config.Load([]string{
			"SECRETS_MANAGER_APIKEY=" + key, "SECRETS_MANAGER_URL=" + url, "ROTATIONS=" + rotations, "MIN_REMAINING=" + minRemaining,
			"SECRETS_MANAGER_MAX_RPS=" + rps, "TOKEN_FORMAT=" + format, "BOOTSTRAP_EXPIRES_AT=" + expires,
		}, func(string) ([]byte, error) { return nil, errors.New("there are no files") })
		if err != nil {
			if strings.Contains(err.Error(), "canary") {
				t.Error("a problem repeats the key")
			}
			return
		}
		scheme, _, _ := strings.Cut(cfg.SecretsManagerURL, "://")
		if len(cfg.Rotations) == 0 || cfg.MinRemaining <= 0 || cfg.MaxRPS < 0 || cfg.Concurrency < 1 || scheme != "https" && scheme != "http" {
			t.Errorf("got %+v", cfg)
		}
		targets := map[string]bool{}
		for _, r := range cfg.Rotations {
			if r.Name == "" || r.Token.ID == "" || r.APIKey.ID == "" && r.APIKey.Name == "" || targets[r.Token.ID] {
				t.Errorf("got the rotation %+v", r)
			}
			targets[r.Token.ID] = true
		}
	})
}
