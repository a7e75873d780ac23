package aws_test

import (
	"strings"
	"testing"

	"iam-token-rotator/scripts/programs"
)

func TestPutBootstrapKey(t *testing.T) {
	t.Parallel()
	moto := needMoto(t)
	for _, shell := range []string{"dash", "bash"} {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			programs.Need(t, shell)
			put := func(key string, args ...string) programs.Result {
				return runIn(t, root, awsEnvironment(moto, "TMPDIR="+t.TempDir()), key, shell, append([]string{"scripts/put-bootstrap-key"}, args...)...)
			}
			name := "put/" + shell
			stored := func() object {
				return moto.MustCall(t, "secretsmanager", "secretsmanager.GetSecretValue", object{"SecretId": name})
			}
			created := put("\n\n first-key\t\r\n", "--name", name, "--kms-key-id", "alias/own")
			if created.Exit != 0 || created.Stdout != stored()["ARN"].(string)+"\n" {
				t.Fatalf("got exit %d, %q, %q, want the ARN alone", created.Exit, created.Stdout, created.Stderr)
			}
			want(t, "value", stored()["SecretString"], "first-key")
			description := moto.MustCall(t, "secretsmanager", "secretsmanager.DescribeSecret", object{"SecretId": name})
			want(t, "KMS key", description["KmsKeyId"], "alias/own")

			updated := put("second-key", "--name", name)
			if updated.Exit != 0 || updated.Stdout != created.Stdout {
				t.Fatalf("got exit %d, %q, %q, want the same ARN", updated.Exit, updated.Stdout, updated.Stderr)
			}
			want(t, "value", stored()["SecretString"], "second-key")

			for what, input := range map[string]string{
				"empty": "", "white space": " \n", "two lines": "secret-key\nsecret-key\n", "two words": "secret-key secret-key",
				"JSON": `{"apikey":"secret-key"}`, "too long": strings.Repeat("secret-key", 60), "not ASCII": "secret-kéy",
			} {
				got := put(input, "--name", name)
				if got.Exit != 2 || got.Stdout != "" || strings.Contains(got.Stderr, "secret-k") || !strings.HasPrefix(got.Stderr, "put-bootstrap-key: standard input ") {
					t.Errorf("%s: got exit %d, %q, %q, want 2 and what to do", what, got.Exit, got.Stdout, got.Stderr)
				}
			}
			// Somebody will put the key on the command line all the same.
			for _, args := range [][]string{{"secret-key"}, {"--name"}, {"--secret-key"}} {
				if got := put("key", args...); got.Exit != 2 || strings.Contains(got.All(), "secret-key") {
					t.Errorf("%v: got exit %d, %q, want 2 without the argument", args, got.Exit, got.All())
				}
			}
			want(t, "value in the end", stored()["SecretString"], "second-key")

			moto.MustCall(t, "secretsmanager", "secretsmanager.DeleteSecret", object{"SecretId": name})
			if got := put("third-key", "--name", name); got.Exit != 1 || !strings.Contains(got.Stderr, "restore-secret") {
				t.Errorf("a deleted secret: got exit %d, %q, want 1 and restore-secret", got.Exit, got.Stderr)
			}
		})
	}
}
