package main

import (
	"encoding"
	"testing"
)

func TestSizes(t *testing.T) {
	var s size
	var p share
	for _, test := range []struct {
		into     encoding.TextUnmarshaler
		text     string
		want     any
		becomes  string // "" if it is refused
		rendered func() ([]byte, error)
	}{
		{&s, "64GiB", size(64 << 30), "64GiB", func() ([]byte, error) { return s.MarshalText() }},
		{&s, "1536KiB", size(1536 << 10), "1536KiB", func() ([]byte, error) { return s.MarshalText() }},
		{&s, "1024MiB", size(1 << 30), "1GiB", func() ([]byte, error) { return s.MarshalText() }},
		{&s, "1000", size(1000), "1000", func() ([]byte, error) { return s.MarshalText() }},
		{&s, "0", size(0), "0", func() ([]byte, error) { return s.MarshalText() }},
		{&p, "5%", share{percent: 5}, "5%", func() ([]byte, error) { return p.MarshalText() }},
		{&p, "10GiB", share{bytes: 10 << 30}, "10GiB", func() ([]byte, error) { return p.MarshalText() }},
		{&p, "0%", share{}, "0", func() ([]byte, error) { return p.MarshalText() }},
		{into: &s, text: ""}, {into: &s, text: "GiB"}, {into: &s, text: "-1"}, {into: &s, text: "5GB"}, {into: &s, text: "1 GiB"},
		{into: &s, text: "9000000TiB"}, {into: &s, text: "9223372036854775808"}, {into: &s, text: "5%"},
		{into: &p, text: "100%"}, {into: &p, text: "-1%"}, {into: &p, text: "5.5%"}, {into: &p, text: "%"}, {into: &p, text: "x"},
	} {
		err := test.into.UnmarshalText([]byte(test.text))
		if test.becomes == "" {
			if err == nil {
				t.Errorf("%q is taken", test.text)
			}
			continue
		}
		var got any = s
		if _, ok := test.into.(*share); ok {
			got = p
		}
		text, textErr := test.rendered()
		if err != nil || got != test.want || textErr != nil || string(text) != test.becomes {
			t.Errorf("%q is %v and reads %q (%v, %v); want %v and %q", test.text, got, text, err, textErr, test.want, test.becomes)
		}
	}
}
