package ibmcloud

import "testing"

func TestAPanicOfTheSDKIsAnError(t *testing.T) {
	_, err := guard(func() (string, error) {
		var answers []string
		return answers[0], nil
	})
	if err == nil {
		t.Error("got no error")
	}
}
