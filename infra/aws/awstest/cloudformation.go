package awstest

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// passOn leaves a request to Moto. The deletion of a stack it completes.
func (l *Lambda) passOn(w http.ResponseWriter, r *http.Request) {
	form, err := readForm(r)
	if err == nil && form.Get("Action") != "DeleteStack" {
		l.Moto.ServeHTTP(w, r)
		return
	}
	var status int
	var answer []byte
	if err == nil {
		status, answer, err = l.Moto.deleteStack(r.Context(), form)
	}
	if err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(status)
	_, _ = w.Write(answer)
}

// readForm returns the form that a request sends, nil if it sends none. The request can still be
// passed on.
func readForm(r *http.Request) (url.Values, error) {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		return nil, nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the request: %w", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, _ := url.ParseQuery(string(body)) // what moto says of a bad one is good enough
	return form, nil
}

// deleteStack has moto delete a stack, and then deletes what CloudFormation would have deleted too: moto
// forgets a log group once an update has touched it, and could not make the stack again while it is there.
func (m *Moto) deleteStack(ctx context.Context, form url.Values) (status int, answer []byte, err error) {
	functions, err := m.functions(ctx, form.Get("StackName"))
	if err != nil {
		return 0, nil, err
	}
	status, answer, err = m.Do(ctx, Request{Service: "cloudformation", Body: form.Encode()})
	if err != nil || status != http.StatusOK {
		return status, answer, err
	}
	for _, function := range functions {
		left := Request{Service: "logs", Target: "Logs_20140328.DeleteLogGroup", Body: fmt.Sprintf(`{"logGroupName":%q}`, logGroup(function))}
		status, complaint, err := m.Do(ctx, left)
		if err == nil && status != http.StatusOK && !strings.Contains(string(complaint), "ResourceNotFoundException") {
			err = fmt.Errorf("%d %s", status, complaint)
		}
		if err != nil {
			return 0, nil, fmt.Errorf("deleting the log of %s: %w", function, err)
		}
	}
	return status, answer, nil
}

// functions are the names of a stack's functions, none if there is no such stack.
func (m *Moto) functions(ctx context.Context, stack string) ([]string, error) {
	form := url.Values{"Action": {"DescribeStackResources"}, "Version": {"2010-05-15"}, "StackName": {stack}}
	status, answer, err := m.Do(ctx, Request{Service: "cloudformation", Body: form.Encode()})
	if err != nil || status != http.StatusOK {
		return nil, err
	}
	var described struct {
		Resources []struct {
			Type string `xml:"ResourceType"`
			Name string `xml:"PhysicalResourceId"`
		} `xml:"DescribeStackResourcesResult>StackResources>member"`
	}
	if err := xml.Unmarshal(answer, &described); err != nil {
		return nil, fmt.Errorf("reading the resources of %s: %w", stack, err)
	}
	var names []string
	for _, resource := range described.Resources {
		if resource.Type == "AWS::Lambda::Function" {
			names = append(names, resource.Name)
		}
	}
	return names, nil
}

// logGroup is where Lambda writes a function's log.
func logGroup(function string) string { return "/aws/lambda/" + function }
