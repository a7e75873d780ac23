package config_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"reflect"
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
)

// minimal is a configuration with nothing but what is required.
var minimal = map[string]string{
	"SECRETS_MANAGER_URL":    "https://instance.us-south.secrets-manager.appdomain.cloud",
	"SECRETS_MANAGER_APIKEY": canary,
	"API_KEY_SECRET":         keyID,
	"TOKEN_SECRET":           tokenID,
}

// with is the minimal configuration with changes; an empty value unsets.
func with(changes map[string]string) map[string]string {
	set := maps.Clone(minimal)
	maps.Copy(set, changes)
	return set
}

func load(set map[string]string) (config.Config, error) {
	var environ []string
	for name, value := range set {
		environ = append(environ, name+"="+value)
	}
	return config.Load(environ, func(name string) ([]byte, error) {
		if name == "rotations.json" {
			return []byte(`[{"name":"from-file","api_key_secret":"` + keyID + `","token_secret":"` + tokenID + `"}]`), nil
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	})
}

func TestTheMinimalConfigurationHasTheDocumentedDefaults(t *testing.T) {
	cfg, err := load(minimal)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Credential.APIKey.Reveal() != canary {
		t.Error("the bootstrap key was not used")
	}
	if cfg.IAMURL != "https://iam.cloud.ibm.com" || cfg.MinRemaining != 8*time.Minute || cfg.RotationInterval != 50*time.Minute ||
		cfg.MaxRPS != 15 || cfg.Concurrency != 16 || cfg.MetricsNamespace != "IAMTokenRotator" || cfg.LogLevel.Level() != slog.LevelInfo || !cfg.BootstrapExpiresAt.IsZero() {
		t.Errorf("got %+v, want the documented defaults", cfg)
	}
	want := rotation.Rotation{Name: "default", APIKey: rotation.KeyRef{ID: keyID}, Token: rotation.TokenRef{ID: tokenID, Format: iamtoken.Raw}}
	if len(cfg.Rotations) != 1 || !reflect.DeepEqual(cfg.Rotations[0], want) {
		t.Errorf("got rotations %+v, want %+v", cfg.Rotations, want)
	}
}

func TestEveryVariableCounts(t *testing.T) {
	cfg, err := load(with(map[string]string{
		"SECRETS_MANAGER_URL": "http://127.0.0.1:8480/", "IAM_URL": "https://private.iam.cloud.ibm.com", "API_KEY_SECRET": "keys/kv/mine",
		"MIN_REMAINING": "9m", "ROTATION_INTERVAL": "10m", "SECRETS_MANAGER_MAX_RPS": "0", "CONCURRENCY": "1", "TOKEN_FORMAT": "bearer",
		"METRICS_NAMESPACE": "Mine/1", "LOG_LEVEL": "debug", "BOOTSTRAP_EXPIRES_AT": "2026-01-31",
		"EXPECT_ACCOUNT": "0123456789abcdef0123456789abcdef", "EXPECT_IAM_ID": "iam-ServiceId-1",
	}))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.SecretsManagerURL != "http://127.0.0.1:8480" || cfg.IAMURL != "https://private.iam.cloud.ibm.com" || cfg.MinRemaining != 9*time.Minute ||
		cfg.RotationInterval != 10*time.Minute || cfg.MaxRPS != 0 || cfg.Concurrency != 1 || cfg.MetricsNamespace != "Mine/1" ||
		cfg.LogLevel.Level() != slog.LevelDebug || !cfg.BootstrapExpiresAt.Equal(time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("got %+v, want the values set", cfg)
	}
	if got := cfg.Rotations[0]; got.APIKey != (rotation.KeyRef{Group: "keys", Type: "kv", Name: "mine"}) || got.Token.Format != iamtoken.Bearer ||
		got.Expect != (rotation.Expect{Account: "0123456789abcdef0123456789abcdef", IAMID: "iam-ServiceId-1"}) {
		t.Errorf("got rotation %+v, want the values set", got)
	}
}

func TestTheManagedBootstrapKey(t *testing.T) {
	for value, want := range map[string]rotation.KeyRef{
		"keys/iam_credentials/mine": {Group: "keys", Type: "iam_credentials", Name: "mine"}, strings.ToUpper(otherID): {ID: otherID}, " ": {},
	} {
		cfg, err := load(with(map[string]string{"BOOTSTRAP_KEY_SECRET": value, "SECRETS_MANAGER_APIKEY": "",
			"SECRETS_MANAGER_APIKEY_ARN": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rotator/bootstrap-Ab12Cd"}))
		if err != nil || cfg.ManagedKey != want {
			t.Errorf("%q: got %+v, %v; want %+v", value, cfg.ManagedKey, err, want)
		}
	}
}

func TestTheBusForEvents(t *testing.T) {
	const arn = "arn:aws:events:eu-north-1:123456789012:event-bus/"
	const neither, nowhere = "EVENT_BUS_NAME: is neither the name of an EventBridge bus", "EVENT_BUS_NAME: is a bus's name, and AWS_REGION does not say in which region"
	for _, test := range []struct{ bus, region, standard, wantRegion, problem string }{
		{"tokens", "us-east-1", "eu-west-1", "us-east-1", ""},
		{"my.tokens_2-a", "", "eu-west-1", "eu-west-1", ""},
		{"default", "us-east-1", "", "us-east-1", ""},
		{arn + "tokens", "us-east-1", "", "eu-north-1", ""},
		{arn + strings.Repeat("x", 256), "", "", "eu-north-1", ""},
		{strings.Replace(arn, "aws", "aws-us-gov", 1) + "default", "", "", "eu-north-1", ""},
		{"tokens", "", "", "", nowhere},
		{"tokens", "us-east-1.example.com/", "", "", nowhere},
		{"tokens", "us east", "", "", nowhere},
		{"two words", "us-east-1", "", "", neither},
		{"aws.partner/example.com/x", "us-east-1", "", "", neither},
		{strings.Repeat("x", 41), "us-east-1", "", "", neither},
		{arn, "us-east-1", "", "", neither},
		{arn + "a/b", "us-east-1", "", "", neither},
		{strings.Replace(arn, ":events:", ":sqs:", 1) + "tokens", "us-east-1", "", "", neither},
		{strings.Replace(arn, "eu-north-1", "", 1) + "tokens", "us-east-1", "", "", neither},
		{strings.Replace(arn, "event-bus", "rule", 1) + "tokens", "us-east-1", "", "", neither},
	} {
		cfg, err := load(with(map[string]string{"EVENT_BUS_NAME": test.bus, "AWS_REGION": test.region, "AWS_DEFAULT_REGION": test.standard}))
		switch {
		case test.problem != "":
			if err == nil || !strings.HasPrefix(err.Error(), test.problem) {
				t.Errorf("%q, %q: got %v, want %s", test.bus, test.region, err, test.problem)
			}
		case err != nil || cfg.EventBus != test.bus || cfg.EventBusRegion != test.wantRegion:
			t.Errorf("%q: got %q in %q (%v), want it in %s", test.bus, cfg.EventBus, cfg.EventBusRegion, err, test.wantRegion)
		}
	}
}

func TestManyRotations(t *testing.T) {
	list := `[
		{"name":"a","api_key_secret":"keys/mine","token_secret":"` + tokenID + `","format":"json","expect":{"account":"0123456789abcdef0123456789abcdef","iam_id":"iam-ServiceId-1"}},
		{"name":"b","api_key_secret":"` + strings.ToUpper(keyID) + `","api_key_field":"k","token_secret":"` + otherID + `","token_field":"t"}]`
	cfg, err := load(with(map[string]string{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS": list, "TOKEN_FORMAT": "bearer"}))
	if err != nil {
		t.Fatal(err)
	}
	want := []rotation.Rotation{{
		Name: "a", APIKey: rotation.KeyRef{Group: "keys", Type: "arbitrary", Name: "mine"},
		Token:  rotation.TokenRef{ID: tokenID, Format: iamtoken.JSON},
		Expect: rotation.Expect{Account: "0123456789abcdef0123456789abcdef", IAMID: "iam-ServiceId-1"},
	}, {
		Name: "b", APIKey: rotation.KeyRef{ID: keyID, Field: "k"}, Token: rotation.TokenRef{ID: otherID, Field: "t", Format: iamtoken.Bearer},
	}}
	for i := range want {
		if i >= len(cfg.Rotations) || !reflect.DeepEqual(cfg.Rotations[i], want[i]) {
			t.Errorf("got %+v, want %+v", cfg.Rotations, want)
		}
	}
	fromFile, err := load(with(map[string]string{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS_FILE": "rotations.json"}))
	if err != nil || len(fromFile.Rotations) != 1 || fromFile.Rotations[0].Name != "from-file" {
		t.Errorf("got %+v, %v; want the file's rotation", fromFile.Rotations, err)
	}
}

func TestTheBootstrapIdentityIsExactlyOne(t *testing.T) {
	const arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:k-Ab12Cd"
	for variable, changes := range map[string]map[string]string{
		"SECRETS_MANAGER_APIKEY":     {"IAM_TOKEN": "Bearer " + canary},
		"SECRETS_MANAGER_APIKEY_ARN": {"SECRETS_MANAGER_APIKEY": "", "SECRETS_MANAGER_APIKEY_ARN": arn},
		"IAM_PROFILE_NAME":           {"SECRETS_MANAGER_APIKEY": "", "IAM_PROFILE_NAME": "rotator", "CR_TOKEN_FILENAME": "/token"},
		"IAM_PROFILE_ID":             {"SECRETS_MANAGER_APIKEY": "", "IAM_PROFILE_ID": "Profile-1"},
		"IAM_TOKEN":                  {"SECRETS_MANAGER_APIKEY": "", "IAM_TOKEN": "IAM token:  bEARER\t" + canary + "\nUAA token:  Bearer x"},
	} {
		cfg, err := load(with(changes))
		got := map[string]string{"SECRETS_MANAGER_APIKEY": cfg.Credential.APIKey.Reveal(), "SECRETS_MANAGER_APIKEY_ARN": cfg.Credential.APIKeyARN,
			"IAM_PROFILE_NAME": cfg.Credential.ProfileName, "IAM_PROFILE_ID": cfg.Credential.ProfileID, "IAM_TOKEN": cfg.Credential.Token.Reveal()}
		for name, value := range got {
			if err != nil || cfg.Credential.Variable != variable || (value != "") != (name == variable) {
				t.Errorf("%s: got %s by %s, %v; want that one alone", variable, name, cfg.Credential.Variable, err)
			}
		}
		if (cfg.Credential.CRTokenFilename == "/token") != (variable == "IAM_PROFILE_NAME") {
			t.Errorf("%s: got the file %q", variable, cfg.Credential.CRTokenFilename)
		}
	}
	for want, changes := range map[string]map[string]string{
		"is required": {"SECRETS_MANAGER_APIKEY": ""},
		"SECRETS_MANAGER_APIKEY and IAM_PROFILE_ID are set: set exactly one": {"IAM_PROFILE_ID": "Profile-1"},
		"IAM_PROFILE_NAME and IAM_PROFILE_ID are set":                        {"SECRETS_MANAGER_APIKEY": "", "IAM_PROFILE_ID": "Profile-1", "IAM_PROFILE_NAME": "rotator"},
	} {
		if _, err := load(with(changes)); err == nil || !strings.Contains(err.Error(), "bootstrap identity: "+want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
}

func TestProblemsNameTheVariableAndSayWhatToDo(t *testing.T) {
	list := func(entries string) map[string]string {
		return map[string]string{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS": entries}
	}
	entry := func(name, more string) string {
		return `{"name":"` + name + `","api_key_secret":"` + keyID + `","token_secret":"` + tokenID + `"` + more + `}`
	}
	for name, test := range map[string]struct {
		changes map[string]string
		want    string
	}{
		"no URL":                {map[string]string{"SECRETS_MANAGER_URL": ""}, "SECRETS_MANAGER_URL: is required"},
		"a password":            {map[string]string{"SECRETS_MANAGER_URL": "https://user:" + canary + "@host"}, "more than an origin"},
		"another scheme":        {map[string]string{"IAM_URL": "ftp://127.0.0.1"}, "must begin with https://"},
		"a key for a secret":    {map[string]string{"API_KEY_SECRET": canary}, "API_KEY_SECRET: names no secret"},
		"a type without keys":   {map[string]string{"API_KEY_SECRET": "group/username_password/name"}, "use arbitrary, kv"},
		"a name for the token":  {map[string]string{"TOKEN_SECRET": "group/name"}, "TOKEN_SECRET: is no secret id, such as e2dd1896-"},
		"only one of the pair":  {map[string]string{"TOKEN_SECRET": ""}, "TOKEN_SECRET: is not set: it is the id"},
		"the other of the pair": {map[string]string{"API_KEY_SECRET": ""}, "API_KEY_SECRET: is not set: it names"},
		"two sources":           {map[string]string{"ROTATIONS": "[]"}, "rotations: API_KEY_SECRET and TOKEN_SECRET and ROTATIONS are set: set exactly one"},
		"two lists":             {map[string]string{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS": "[]", "ROTATIONS_FILE": "x"}, "rotations: ROTATIONS and ROTATIONS_FILE are set"},
		"no source":             {map[string]string{"API_KEY_SECRET": "", "TOKEN_SECRET": ""}, "rotations: are required: set API_KEY_SECRET and TOKEN_SECRET, or ROTATIONS, or ROTATIONS_FILE"},
		"expect of default":     {map[string]string{"EXPECT_ACCOUNT": "mine", "EXPECT_IAM_ID": "somebody"}, "EXPECT_ACCOUNT: is no account id: that has 32 hexadecimal digits\nEXPECT_IAM_ID: is no IAM id"},
		"two lines of key":      {map[string]string{"SECRETS_MANAGER_APIKEY": canary + "\nmore"}, "is not an API key on one line"},
		"a key in quotes":       {map[string]string{"SECRETS_MANAGER_APIKEY": `'` + canary + `'`}, "SECRETS_MANAGER_APIKEY: is in quotes"},
		"a token in quotes":     {map[string]string{"SECRETS_MANAGER_APIKEY": "", "IAM_TOKEN": `"Bearer ` + canary + `"`}, "IAM_TOKEN: holds characters that no token has"},
		"another instance":      {map[string]string{"SECRETS_MANAGER_URL": ibmURL, "API_KEY_SECRET": "us-south/" + tokenID + "/" + keyID}, "API_KEY_SECRET: names a secret of another instance than SECRETS_MANAGER_URL"},
		"another one's CRN":     {map[string]string{"SECRETS_MANAGER_URL": ibmURL, "TOKEN_SECRET": crn(keyID, tokenID)}, "TOKEN_SECRET: names a secret of another instance than SECRETS_MANAGER_URL"},
		"the CRN of a group":    {map[string]string{"API_KEY_SECRET": strings.Replace(crn(keyID, keyID), ":secret:", ":secret-group:", 1)}, "API_KEY_SECRET: is not the CRN of one secret"},
		"the instance's CRN":    {map[string]string{"TOKEN_SECRET": "crn:v1:bluemix:public:secrets-manager:us-south:a/" + strings.Repeat("0", 32) + ":" + keyID + "::"}, "TOKEN_SECRET: is not the CRN of one secret"},
		"a type without key":    {map[string]string{"API_KEY_SECRET": "username_password/" + keyID}, "API_KEY_SECRET: names a secret of type username_password: use arbitrary, kv"},
		"a type without token":  {map[string]string{"TOKEN_SECRET": "iam_credentials/" + tokenID}, "TOKEN_SECRET: names a secret of type iam_credentials: use arbitrary, kv"},
		"a group and an id":     {map[string]string{"TOKEN_SECRET": "group/" + tokenID}, "TOKEN_SECRET: is no secret id"},
		"the key's other form":  {map[string]string{"TOKEN_SECRET": "arbitrary/" + strings.ToUpper(keyID)}, "the token would replace the API key"},
		"format":                {map[string]string{"TOKEN_FORMAT": "jwt"}, "TOKEN_FORMAT: not a format: use raw, bearer or json"},
		"threshold":             {map[string]string{"MIN_REMAINING": "2h"}, "MIN_REMAINING: 2h0m0s is not a useful threshold"},
		"no unit":               {map[string]string{"MIN_REMAINING": "8"}, "MIN_REMAINING: is not a duration: use 8m"},
		"interval":              {map[string]string{"ROTATION_INTERVAL": "0s"}, "ROTATION_INTERVAL"},
		"negative rate":         {map[string]string{"SECRETS_MANAGER_MAX_RPS": "-1"}, "SECRETS_MANAGER_MAX_RPS: -1 is negative"},
		"no number":             {map[string]string{"CONCURRENCY": "many"}, "CONCURRENCY: is not a whole number"},
		"too large a number":    {map[string]string{"CONCURRENCY": "9223372036854775807"}, "CONCURRENCY: is not a whole number, or is too large"},
		"no concurrency":        {map[string]string{"CONCURRENCY": "0"}, "CONCURRENCY: 0 leaves nothing to run"},
		"namespace":             {map[string]string{"METRICS_NAMESPACE": "a b"}, "METRICS_NAMESPACE"},
		"level":                 {map[string]string{"LOG_LEVEL": "loud"}, "LOG_LEVEL: \"loud\" is not a level: use debug, info, warn or error"},
		"date":                  {map[string]string{"BOOTSTRAP_EXPIRES_AT": "soon"}, "BOOTSTRAP_EXPIRES_AT: \"soon\" is not a date"},
		"managed without AWS":   {map[string]string{"BOOTSTRAP_KEY_SECRET": "group/iam_credentials/name"}, "BOOTSTRAP_KEY_SECRET: goes with SECRETS_MANAGER_APIKEY_ARN alone"},
		"a key nobody renews":   {map[string]string{"BOOTSTRAP_KEY_SECRET": "group/name"}, "BOOTSTRAP_KEY_SECRET: names a secret of another type: use iam_credentials"},
		"another tool's form":   {map[string]string{"BOOTSTRAP_KEY_SECRET": "arbitrary/" + keyID}, "BOOTSTRAP_KEY_SECRET: names a secret of type arbitrary: use iam_credentials"},
		"the workload's key":    {map[string]string{"BOOTSTRAP_KEY_SECRET": keyID}, "BOOTSTRAP_KEY_SECRET: is a secret of rotation default too"},
		"the token's secret":    {map[string]string{"BOOTSTRAP_KEY_SECRET": tokenID}, "BOOTSTRAP_KEY_SECRET: is a secret of rotation default too"},
		"no such file":          {map[string]string{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS_FILE": "nowhere.json"}, "ROTATIONS_FILE: the file cannot be read: file does not exist"},
		"malformed list":        {list(`[{"name":"a"`), "ROTATIONS: is no JSON list of rotations: it ends too early"},
		"an object":             {list(`{"name":"a"}`), "it must be a list of objects"},
		"empty list":            {list(`[]`), "the list is empty"},
		"something after it":    {list(`[` + entry("a", "") + `] []`), "something follows the list"},
		"misspelt field":        {list(`[` + entry("a", "") + `,{"nam":"x"}]`), `ROTATIONS[1]: unknown field "nam": an entry may have name, api_key_secret, `},
		"no object":             {list(`[1,null]`), "ROTATIONS[0]: must be an object with name, api_key_secret, api_key_field, token_secret, token_field, format, expect{account, iam_id} and mirror\nROTATIONS[1]: must"},
		"an index after a gap":  {list(`[{"nam":"x"},` + entry("", "") + `]`), "ROTATIONS[1]: name: use"},
		"no token secret":       {list(`[{"name":"a","api_key_secret":"g/n"}]`), `ROTATIONS "a" token_secret: is not set`},
		"expect with a list":    {map[string]string{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS": "[" + entry("a", "") + "]", "EXPECT_IAM_ID": "iam-ServiceId-1"}, "EXPECT_IAM_ID: goes with API_KEY_SECRET and TOKEN_SECRET alone: with ROTATIONS unset it"},
		"no name":               {list(`[` + entry("", "") + `]`), `ROTATIONS[0]: name: use 1 to 40`},
		"odd name":              {list(`[` + entry("a b", "") + `]`), `ROTATIONS[0]: name: use 1 to 40`},
		"a token secret twice":  {list(`[` + entry("a", "") + `,` + entry("b", "") + `]`), `token_secret is that of "a" too`},
		"account":               {list(`[` + entry("a", `,"expect":{"account":"mine"}`) + `]`), "expect.account"},
		"identity":              {list(`[` + entry("a", `,"expect":{"iam_id":"somebody"}`) + `]`), "expect.iam_id: is no IAM id"},
		"wrong type":            {list(`[` + entry("a", `,"api_key_field":1`) + `]`), "the field api_key_field has the wrong type"},
		"a syntax error":        {list(`[{"name" "a"}]`), "a syntax error at character 10"},
		"AWS in the clear":      {map[string]string{"AWS_ENDPOINT_URL": "http://example.com"}, "AWS_ENDPOINT_URL: must begin with https://"},
		"a proxy after a space": {map[string]string{"HTTPS_PROXY": " http://user:" + canary + "@proxy:3128"}, "HTTPS_PROXY: is not a proxy's URL"},
		"a question mark":       {map[string]string{"IAM_URL": "https://iam.cloud.ibm.com?"}, "more than an origin"},
		"the way up":            {map[string]string{"API_KEY_SECRET": "group/.."}, "names no secret"},
		"the key for the token": {map[string]string{"TOKEN_SECRET": strings.ToUpper(keyID)}, "the token would replace the API key"},
		"another one's key":     {list(`[` + entry("a", "") + `,{"name":"b","api_key_secret":"g/n","token_secret":"` + keyID + `"}]`), `rotation b: its token secret is a key secret`},
		"misspelt in expect":    {list(`[` + entry("a", `,"expect":{"iamid":"x"}`) + `]`), `unknown field "iamid"`},
		"a field twice":         {list(`[` + entry("a", `,"token_secret":"`+keyID+`"`) + `]`), `ROTATIONS[0]: the field "token_secret" is there twice`},
		"in another case":       {list(`[` + entry("a", `,"Mirror":[],"mirror":[]`) + `]`), `ROTATIONS[0]: the field "mirror" is there twice`},
		"twice in expect":       {list(`[` + entry("a", `,"expect":{"account":"","account":""}`) + `]`), `the field "account" is there twice`},
		"all of a list":         {list(`[` + entry("a", `,"format":"jwt"`) + `,` + entry("a", "") + `]`), "ROTATIONS \"a\" format: not a format: use raw, bearer or json\nROTATIONS[1]: name \"a\" is used twice"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(with(test.changes))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want it to say %s", err, test.want)
			}
			if strings.Contains(err.Error(), canary) {
				t.Error("the problem repeats the key")
			}
		})
	}
}

// instanceID and ibmURL are of one instance at IBM.
const (
	instanceID = "4a0225e9-17a0-46c1-ace7-f25bcf4237d4"
	ibmURL     = "https://" + instanceID + ".us-south.secrets-manager.appdomain.cloud"
)

func crn(instance, secret string) string {
	return "crn:v1:bluemix:public:secrets-manager:us-south:a/" + strings.Repeat("0", 32) + ":" + instance + ":secret:" + secret
}

func TestIDsInTheFormsOfOtherTools(t *testing.T) {
	for _, url := range []string{ibmURL, strings.Replace(ibmURL, ".us-south", ".private.us-south", 1), "http://127.0.0.1:8480"} {
		for _, form := range []string{"ID", "arbitrary/ID", "kv/ID", "us-south/" + instanceID + "/ID", "us-south/" + strings.ToUpper(instanceID) + "/ID", crn(instanceID, "ID")} {
			set := map[string]string{"SECRETS_MANAGER_URL": url, "API_KEY_SECRET": strings.ReplaceAll(form, "ID", strings.ToUpper(keyID)), "TOKEN_SECRET": strings.ReplaceAll(form, "ID", tokenID)}
			cfg, err := load(with(set))
			if err != nil || cfg.Rotations[0].APIKey != (rotation.KeyRef{ID: keyID}) || cfg.Rotations[0].Token.ID != tokenID {
				t.Errorf("%s at %s: got %+v, %v; want the ids", form, url, cfg.Rotations, err)
			}
		}
	}
	for value, want := range map[string]rotation.KeyRef{
		"iam_credentials/" + keyID:     {ID: keyID},
		"service_credentials/" + keyID: {ID: keyID},
		"group/" + keyID:               {Group: "group", Type: "arbitrary", Name: keyID}, // a name may look like an id
		"kv/name":                      {Group: "kv", Type: "arbitrary", Name: "name"},
		"group/kv/" + keyID:            {Group: "group", Type: "kv", Name: keyID},
	} {
		if cfg, err := load(with(map[string]string{"API_KEY_SECRET": value})); err != nil || cfg.Rotations[0].APIKey != want {
			t.Errorf("%s: got %+v, %v; want %+v", value, cfg.Rotations, err, want)
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
				_, err := load(with(map[string]string{name: url}))
				if err == nil || !strings.Contains(err.Error(), name+": ") || strings.Contains(err.Error(), url) {
					t.Errorf("%s=%s: got %v, want a problem that does not repeat it", name, url, err)
				}
			}
		}
		if _, err := load(with(map[string]string{"HTTPS_PROXY": host})); err == nil {
			t.Errorf("HTTPS_PROXY=%s: got no problem", host)
		}
	}
	for _, url := range []string{"https://nullable.us-south.appdomain.cloud", "https://annull.x", "https://[::1]:8443", "https://127.0.0.1", "https://a_b-c.x:443"} {
		if _, err := load(with(map[string]string{"SECRETS_MANAGER_URL": url, "IAM_URL": url, "HTTPS_PROXY": url, "AWS_ENDPOINT_URL": url})); err != nil {
			t.Errorf("%s: got %v", url, err)
		}
	}
}

func TestAllProblemsAreReportedTogether(t *testing.T) {
	_, err := load(map[string]string{"IAM_URL": "http://x", "LOG_LEVEL": "loud", "CONCURRENCY": "x", "MIN_REMAINING": "2h"})
	for _, name := range []string{"SECRETS_MANAGER_URL", "IAM_URL", "LOG_LEVEL", "CONCURRENCY", "MIN_REMAINING", "bootstrap identity", "rotations"} {
		if err == nil || !strings.Contains(err.Error(), name+": ") {
			t.Errorf("got %v, want %s among the problems", err, name)
		}
	}
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) || len(joined.Unwrap()) != 7 {
		t.Errorf("got %v, want 7 problems", err)
	}
}

// People paste into the wrong place.
func TestNoProblemRepeatsAKeyWhereverItWasPut(t *testing.T) {
	for _, name := range []string{
		"SECRETS_MANAGER_URL", "IAM_URL", "SECRETS_MANAGER_APIKEY_ARN", "IAM_PROFILE_ID", "API_KEY_SECRET", "TOKEN_SECRET", "ROTATIONS",
		"TOKEN_FORMAT", "MIN_REMAINING", "ROTATION_INTERVAL", "SECRETS_MANAGER_MAX_RPS", "CONCURRENCY", "LOG_LEVEL", "BOOTSTRAP_EXPIRES_AT", "BOOTSTRAP_KEY_SECRET",
	} {
		wantProblemWithoutCanary(t, name, with(map[string]string{name: canary}))
	}
	wantProblemWithoutCanary(t, "METRICS_NAMESPACE", with(map[string]string{"METRICS_NAMESPACE": canary + " " + canary}))
	wantProblemWithoutCanary(t, "EVENT_BUS_NAME", with(map[string]string{"EVENT_BUS_NAME": canary + strings.Repeat("x", 44-len(canary)), "AWS_REGION": "us-east-1"}))
	wantProblemWithoutCanary(t, "ROTATIONS_FILE", with(map[string]string{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS_FILE": canary}))
	key := canary + strings.Repeat("x", 44-len(canary))
	for _, entry := range []string{
		`{"name":"KEY"}`, `{"name":"KEY KEY"}`, `{"api_key_secret":"KEY"}`, `{"api_key_secret":"g/KEY/n"}`, `{"token_secret":"KEY"}`, `{"format":"KEY"}`,
		`{"expect":{"account":"KEY"}}`, `{"expect":{"iam_id":"KEY"}}`, `{"KEY":1}`, `{"mirror":["KEY"]}`, `{"mirror":"KEY"}`, `{"name":"KEY"`, `"KEY"`,
	} {
		list := "[" + strings.ReplaceAll(entry, "KEY", key) + "]"
		wantProblemWithoutCanary(t, entry, with(map[string]string{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS": list}))
	}
}

func wantProblemWithoutCanary(t *testing.T, name string, set map[string]string) {
	t.Helper()
	_, err := load(set)
	if err == nil {
		t.Errorf("%s: got no problem", name)
		return
	}
	if strings.Contains(err.Error(), canary[:12]) {
		t.Errorf("%s: a problem repeats the key", name)
	}
}

func TestWhiteSpaceAndEmptyVariablesDoNotCount(t *testing.T) {
	cfg, err := load(with(map[string]string{"SECRETS_MANAGER_APIKEY": " \n", "IAM_PROFILE_NAME": " rotator\n", "MIN_REMAINING": "", "IAM_TOKEN": "Bearer "}))
	if err != nil || cfg.Credential.ProfileName != "rotator" || cfg.MinRemaining != 8*time.Minute {
		t.Errorf("got %+v, %v; want the profile and the default", cfg, err)
	}
	if _, err := load(with(map[string]string{"SECRETS_MANAGER_APIKEY": "", "IAM_TOKEN": "Bearer "})); err == nil {
		t.Error("an empty token was used as the bootstrap identity")
	}
}

func TestABadNamespaceIsReplacedSoThatTheFailureIsCounted(t *testing.T) {
	cfg, err := load(with(map[string]string{"METRICS_NAMESPACE": "a b"}))
	if err == nil || cfg.MetricsNamespace != "IAMTokenRotator" {
		t.Errorf("got namespace %q, %v; want the default with a problem", cfg.MetricsNamespace, err)
	}
}

// Whatever the environment has: it is understood whole or rejected, and no
// problem repeats a key.
func FuzzConfiguration(f *testing.F) {
	const id = "e2dd1896-8c39-4160-b230-92430f439ba9"
	f.Add("https://sm.test", `[{"name":"a","api_key_secret":"g/n","token_secret":"`+id+`"}]`, "8m", "20", "raw", "2026-01-31")
	f.Add("http://127.0.0.1:8480/", `[{"name":"a","api_key_secret":"g/kv/n","api_key_field":"k","token_secret":"`+id+`","format":"bearer","expect":{"account":"0123456789abcdef0123456789abcdef"}}]`, "", "0", "json", "")
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
		checkUsable(t, cfg)
	})
}

// checkUsable: what Load accepts can be run with.
func checkUsable(t *testing.T, cfg config.Config) {
	t.Helper()
	if len(cfg.Rotations) == 0 || cfg.MinRemaining <= 0 || cfg.MaxRPS < 0 || cfg.Concurrency < 1 {
		t.Errorf("got %d rotations, minimum %s, %d requests a second, %d at a time", len(cfg.Rotations), cfg.MinRemaining, cfg.MaxRPS, cfg.Concurrency)
	}
	if !strings.HasPrefix(cfg.SecretsManagerURL, "https://") && !strings.HasPrefix(cfg.SecretsManagerURL, "http://") {
		t.Errorf("got the URL %q", cfg.SecretsManagerURL)
	}
	targets := map[string]bool{}
	for _, r := range cfg.Rotations {
		if r.Name == "" || r.Token.ID == "" || r.APIKey.ID == "" && r.APIKey.Name == "" || targets[r.Token.ID] {
			t.Errorf("got the rotation %+v", r)
		}
		targets[r.Token.ID] = true
	}
}

// TestEndpoints: IBM's host names, public and private, and what is none.
func TestEndpoints(t *testing.T) {
	const id = "abcdef01-2345-6789-abcd-ef0123456789"
	for _, test := range []struct{ variable, value, problem string }{
		{"IAM_URL", "https://iam.cloud.ibm.com", ""},
		{"IAM_URL", "https://private.iam.cloud.ibm.com", ""},
		{"IAM_URL", "https://private.us-south.iam.cloud.ibm.com", ""},
		{"IAM_URL", "https://iam.test.cloud.ibm.com:443/", ""},
		{"SECRETS_MANAGER_URL", "https://" + id + ".us-south.secrets-manager.appdomain.cloud", ""},
		{"SECRETS_MANAGER_URL", "https://" + id + ".private.us-south.secrets-manager.appdomain.cloud", ""},
		{"SECRETS_MANAGER_URL", "https://" + id + ".private.eu-de.secrets-manager.appdomain.cloud/", ""},
		{"SECRETS_MANAGER_URL", "https://[2001:db8::1]:8443", ""},
		{"SECRETS_MANAGER_URL", "http://localhost:8480", ""},
		{"SECRETS_MANAGER_URL", "http://[::1]:8480", ""},
		{"SECRETS_MANAGER_URL", "http://" + id + ".private.us-south.secrets-manager.appdomain.cloud", "must begin with https://"},
		{"SECRETS_MANAGER_URL", "http://10.0.0.1", "must begin with https://"},
		{"SECRETS_MANAGER_URL", "http://localhost.example.com", "must begin with https://"},
		{"SECRETS_MANAGER_URL", "http://127.0.0.1.example.com", "must begin with https://"},
		{"IAM_URL", "http://private.iam.cloud.ibm.com", "must begin with https://"},
		{"IAM_URL", "https://private.iam.cloud.ibm.com/identity/token", "more than an origin"},
		{"IAM_URL", "https://iam.cloud.ibm.com@example.com", "more than an origin"},
		{"IAM_URL", "private.iam.cloud.ibm.com", "not a URL"},
	} {
		cfg, err := load(with(map[string]string{test.variable: test.value}))
		got := map[string]string{"IAM_URL": cfg.IAMURL, "SECRETS_MANAGER_URL": cfg.SecretsManagerURL}[test.variable]
		switch {
		case test.problem == "" && (err != nil || got != strings.TrimSuffix(test.value, "/")):
			t.Errorf("%s=%s: got %q, %v, want it accepted", test.variable, test.value, got, err)
		case test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem)):
			t.Errorf("%s=%s: got %v, want %q", test.variable, test.value, err, test.problem)
		}
	}
}

func TestMirrors(t *testing.T) {
	const (
		arn      = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:iam-token-Ab12Cd"
		otherARN = "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:tokens/logs-Ab12Cd"
		keyARN   = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rotator-secret-Ab12Cd"
		ssm      = "arn:aws:ssm:eu-central-1:123456789012:parameter/"
	)
	rotations := func(first, second string) map[string]string {
		return map[string]string{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "SECRETS_MANAGER_APIKEY": "", "SECRETS_MANAGER_APIKEY_ARN": keyARN,
			"ROTATIONS": `[{"name":"a","api_key_secret":"keys/mine","token_secret":"` + tokenID + `","mirror":` + first + `},
				{"name":"b","api_key_secret":"keys/mine","token_secret":"` + otherID + `","mirror":` + second + `}]`}
	}
	cfg, err := load(with(rotations(`["`+arn+`","`+otherARN+`","`+ssm+`a_B.1-c","`+ssm+`tokens/logs"]`, `[]`)))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cfg.Rotations[0].Mirror, []string{arn, otherARN, ssm + "a_B.1-c", ssm + "tokens/logs"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for name, test := range map[string]struct{ first, second, want string }{
		"no ARN":                {`["iam-token"]`, `[]`, "rotation a mirror[0]: is not the ARN"},
		"of another service":    {`["arn:aws:s3:::bucket"]`, `[]`, "is not the ARN"},
		"a key for an ARN":      {`["` + canary + `"]`, `[]`, "is not the ARN"},
		"twice":                 {`["` + arn + `","` + arn + `"]`, `[]`, `rotation a mirror[1]: is rotation "a"'s`},
		"another rotation's":    {`["` + arn + `"]`, `["` + arn + `"]`, `rotation b mirror[0]: is rotation "a"'s`},
		"the bootstrap key's":   {`["` + keyARN + `"]`, `[]`, "the bootstrap API key's"},
		"without suffix":        {`["arn:aws:secretsmanager:eu-central-1:123456789012:secret:iam-token"]`, `[]`, "is not a whole ARN"},
		"its own, partial":      {`["arn:aws:secretsmanager:eu-central-1:123456789012:secret:rotator-secret"]`, `[]`, "the bootstrap API key's"},
		"its own, elsewhere":    {`["arn:aws:secretsmanager:us-east-1:123456789012:secret:rotator-secret-Ab12Cd"]`, `[]`, "the bootstrap API key's"},
		"characters":            {`["` + arn + `\nx"]`, `[]`, "is not the ARN"},
		"a parameter's version": {`["` + ssm + `logs:3"]`, `[]`, "is not the ARN of a parameter"},
		"a wildcard":            {`["` + ssm + `*"]`, `[]`, "is not the ARN of a parameter"},
		"an empty part":         {`["` + ssm + `a//b"]`, `[]`, "is not the ARN of a parameter"},
		"without a name":        {`["` + ssm + `"]`, `[]`, "is not the ARN of a parameter"},
		"a name that ends in /": {`["` + ssm + `a/"]`, `[]`, "is not the ARN of a parameter"},
		"a name that is long":   {`["` + ssm + strings.Repeat("a", 1011) + `"]`, `[]`, "is not the ARN of a parameter"},
		"a parameter's name":    {`["/tokens/logs"]`, `[]`, "is not the ARN"},
		"a document of SSM":     {`["arn:aws:ssm:eu-central-1:123456789012:document/logs"]`, `[]`, "is not the ARN of a parameter"},
		"another account's":     {`["arn:aws:ssm:eu-central-1:12345:parameter/logs"]`, `[]`, "is not the ARN of a parameter"},
		"a parameter twice":     {`["` + ssm + `logs"]`, `["` + ssm + `logs"]`, `rotation b mirror[0]: is rotation "a"'s`},
		"text, and not a list":  {`"` + arn + `"`, `[]`, "mirror has the wrong type"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(with(rotations(test.first, test.second)))
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), canary) {
				t.Errorf("got %v, want it to say %q", err, test.want)
			}
		})
	}
}

// AWS takes a mirror's whole ARN and a bootstrap key's partial one for one secret.
func TestAMirrorIsHeldAgainstAPartialARNOfTheBootstrapKey(t *testing.T) {
	const partial = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:bootstrap"
	_, err := load(with(map[string]string{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "SECRETS_MANAGER_APIKEY": "", "SECRETS_MANAGER_APIKEY_ARN": partial,
		"ROTATIONS": `[{"name":"a","api_key_secret":"keys/mine","token_secret":"` + tokenID + `","mirror":["` + partial + `-Ab12Cd"]}]`}))
	if err == nil || !strings.Contains(err.Error(), "the bootstrap API key's") {
		t.Errorf("got %v, want the mirror rejected", err)
	}
}

func TestTheErrorIsBounded(t *testing.T) {
	list := "[" + strings.Repeat(`{"name":""},`, 99_999) + `{"name":""}]`
	_, err := load(with(map[string]string{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS": list}))
	if err == nil || len(err.Error()) > 8<<10 || !strings.HasSuffix(err.Error(), "more problems, not listed") {
		t.Errorf("got %.200v, want the first problems and how many more there are", err)
	}
}
