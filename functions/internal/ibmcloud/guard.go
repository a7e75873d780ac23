package ibmcloud

import "fmt"

// guard calls an SDK and turns its panics into errors: the SDKs index into
// answers without looking ({"errors":[]} is enough), and one odd answer must not
// end the other rotations of a run. The panic's value may hold a part of the
// answer, so only its type is told.
func guard[T any](call func() (T, error)) (result T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("IBM's SDK panicked with a %T", r)
		}
	}()
	return call()
}
