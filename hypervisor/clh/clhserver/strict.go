package clhserver

import (
	"encoding/json"
	"reflect"
	"strings"
)

// decode reads a request's JSON as the original does: unknown members are
// ignored, but one that is not optional must be there and must not be null, and
// an enumeration takes its own words only.
func decode(body []byte, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		return fail(badRequest, "%v", err)
	}
	return check(body, reflect.TypeOf(into).Elem())
}

// lenient are members that the document requires and the code does not.
var lenient = map[string]bool{"VmConfig.payload": true}

func check(raw json.RawMessage, t reflect.Type) error {
	if t.Kind() == reflect.Pointer {
		if isNull(raw) {
			return nil
		}
		t = t.Elem()
	}
	if isNull(raw) {
		return fail(badRequest, "invalid type: null, expected %s", t.Kind())
	}
	switch t.Kind() {
	case reflect.Struct:
		return checkMembers(raw, t)
	case reflect.Slice:
		var items []json.RawMessage
		if err := json.Unmarshal(raw, &items); err != nil {
			return fail(badRequest, "%v", err)
		}
		for _, item := range items {
			if err := check(item, t.Elem()); err != nil {
				return err
			}
		}
	case reflect.String:
		word := reflect.New(t)
		if err := json.Unmarshal(raw, word.Interface()); err != nil {
			return fail(badRequest, "%v", err)
		}
		if enum, ok := word.Elem().Interface().(interface{ Valid() bool }); ok && !enum.Valid() {
			return fail(badRequest, "unknown variant `%v`", word.Elem())
		}
	}
	return nil
}

func checkMembers(raw json.RawMessage, t reflect.Type) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return fail(badRequest, "%v", err)
	}
	if t.Name() == "RateLimiterConfig" { // the one object that takes nothing else
		for name := range members {
			if name != "bandwidth" && name != "ops" {
				return fail(badRequest, "unknown field `%s`, expected `bandwidth` or `ops`", name)
			}
		}
	}
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		value, given := members[name]
		switch {
		case given:
			if err := check(value, f.Type); err != nil {
				return err
			}
		case options != "omitempty" && !lenient[t.Name()+"."+name]:
			return fail(badRequest, "missing field `%s`", name)
		}
	}
	return nil
}

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }
