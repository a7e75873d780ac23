package aws_test

import (
	"strings"
	"testing"
)

func TestPutBootstrapKey(t *testing.T) {
	t.Parallel()
	moto := needMoto(t)
	for _, shell := range []string{"dash", "bash"} {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			needTools(t, shell)
			put := func(key string, args ...string) outcome {
				return runIn(t, root, moto.environment("TMPDIR="+t.TempDir()), key, shell, append([]string{"scripts/put-bootstrap-key"}, args...)...)
			}
			name := "put/" + shell
			stored := func() object {
				return moto.call(t, "secretsmanager", "secretsmanager.GetSecretValue", object{"SecretId": name})
			}
			created := put("\n\n first-key\t\r\n", "--name", name, "--kms-key-id", "alias/own")
			if created.code != 0 || created.stdout != stored()["ARN"].(string)+"\n" {
				t.Fatalf("got exit %d, %q, %q, want the ARN alone", created.code, created.stdout, created.stderr)
			}
			want(t, "value", stored()["SecretString"], "first-key")
			description := moto.call(t, "secretsmanager", "secretsmanager.DescribeSecret", object{"SecretId": name})
			want(t, "KMS key", description["KmsKeyId"], "alias/own")

			updated := put("second-key", "--name", name)
			if updated.code != 0 || updated.stdout != created.stdout {
				t.Fatalf("got exit %d, %q, %q, want the same ARN", updated.code, updated.stdout, updated.stderr)
			}
			want(t, "value", stored()["SecretString"], "second-key")

			for what, input := range map[string]string{
				"empty": "", "white space": " \n", "two lines": "secret-key\nsecret-key\n", "two words": "secret-key secret-key",
				"JSON": `{"apikey":"secret-key"}`, "too long": strings.Repeat("secret-key", 60), "not ASCII": "secret-kéy",
			} {
				got := put(input, "--name", name)
				if got.code != 2 || got.stdout != "" || strings.Contains(got.stderr, "secret-k") || !strings.HasPrefix(got.stderr, "put-bootstrap-key: standard input ") {
					t.Errorf("%s: got exit %d, %q, %q, want 2 and what to do", what, got.code, got.stdout, got.stderr)
				}
			}
			// Somebody will put the key on the command line all the same.
			for _, args := range [][]string{{"secret-key"}, {"--name"}, {"--secret-key"}} {
				if got := put("key", args...); got.code != 2 || strings.Contains(got.all(), "secret-key") {
					t.Errorf("%v: got exit %d, %q, want 2 without the argument", args, got.code, got.all())
				}
			}
			want(t, "value in the end", stored()["SecretString"], "second-key")

			moto.call(t, "secretsmanager", "secretsmanager.DeleteSecret", object{"SecretId": name})
			if got := put("third-key", "--name", name); got.code != 1 || !strings.Contains(got.stderr, "restore-secret") {
				t.Errorf("a deleted secret: got exit %d, %q, want 1 and restore-secret", got.code, got.stderr)
			}
		})
	}
}
