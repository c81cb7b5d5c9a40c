package openstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
)

// apiError is a refusal of a service, in its own words.
type apiError struct {
	code    int
	kind    string // Neutron's name for it, if any
	message string
}

func (e *apiError) Error() string {
	return fmt.Sprintf("%s (HTTP %d%s)", strings.TrimSuffix(strings.TrimSpace(e.message), "."), e.code, e.hint())
}

func (e *apiError) hint() string {
	if e.code == http.StatusForbidden {
		return "; the credentials may lack a role or the project a quota"
	}
	return ""
}

// said turns an error of gophercloud's, which holds addresses and raw JSON,
// into what the service said.
func said(err error) error {
	var unexpected gophercloud.ErrUnexpectedResponseCode
	if !errors.As(err, &unexpected) {
		return err
	}
	e := &apiError{code: unexpected.Actual, message: strings.TrimSpace(string(unexpected.Body))}
	// Every service wraps it in an object of one key of its own choice.
	var body map[string]json.RawMessage
	if json.Unmarshal(unexpected.Body, &body) == nil {
		for _, raw := range body {
			var inner struct{ Message, Type string }
			var text string
			if json.Unmarshal(raw, &inner) == nil && inner.Message != "" {
				e.message, e.kind = inner.Message, inner.Type
			} else if json.Unmarshal(raw, &text) == nil && len(body) == 1 {
				e.message = text
			}
		}
	}
	if e.message == "" || strings.HasPrefix(e.message, "<") {
		e.message = http.StatusText(e.code)
	}
	return e
}

func hasCode(err error, codes ...int) bool {
	var e *apiError
	var unexpected gophercloud.ErrUnexpectedResponseCode
	for _, c := range codes {
		if errors.As(err, &e) && e.code == c || errors.As(err, &unexpected) && unexpected.Actual == c {
			return true
		}
	}
	return false
}

func isGone(err error) bool { return hasCode(err, http.StatusNotFound) }

// finalConflicts are refusals with 409 that no waiting helps against.
var finalConflicts = []string{"OverQuota", "IpAddressGenerationFailure", "ExternalGatewayForFloatingIPNotFound", "InvalidInput"}

// undecided reports an error after which the thing may have been made all the
// same, or may be made when asked again.
func undecided(err error) bool {
	if errors.Is(err, context.Canceled) {
		return false
	}
	var e *apiError
	if errors.As(said(err), &e) {
		if e.code == http.StatusConflict {
			for _, k := range finalConflicts {
				if e.kind == k {
					return false
				}
			}
			return !strings.Contains(strings.ToLower(e.message), "quota")
		}
		return e.code >= 500
	}
	var call *url.Error
	return errors.As(err, &call)
}
