package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// What layers may take of the disk unless the configuration says otherwise.
const (
	maxLayerSize   = 64 << 30
	minFreePercent = 5
)

// size is a number of bytes that reads as text: "64GiB".
type size int64

// units are in the order in which one is tried.
var units = []struct {
	name  string
	shift int
}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}, {"", 0}}

func (s *size) UnmarshalText(text []byte) error {
	for _, u := range units {
		number, ok := strings.CutSuffix(string(text), u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 63)
		if err != nil || n > math.MaxInt64>>u.shift {
			break
		}
		*s = size(n << u.shift)
		return nil
	}
	return fmt.Errorf("size %q is not a number of bytes with KiB, MiB, GiB, TiB or nothing behind it", text)
}

func (s size) MarshalText() ([]byte, error) {
	for _, u := range units {
		if n := int64(s) >> u.shift; s != 0 && n<<u.shift == int64(s) {
			return fmt.Append(nil, n, u.name), nil
		}
	}
	return []byte("0"), nil
}

// share is a size or, as "5%", a part of a file system's.
type share struct {
	bytes   size
	percent int
}

func (s *share) UnmarshalText(text []byte) error {
	number, ok := strings.CutSuffix(string(text), "%")
	if !ok {
		*s = share{}
		return s.bytes.UnmarshalText(text)
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n > 99 {
		return fmt.Errorf("%q is not a percentage from 0 to 99", text)
	}
	*s = share{percent: n}
	return nil
}

func (s share) MarshalText() ([]byte, error) {
	if s.percent > 0 {
		return fmt.Append(nil, s.percent, "%"), nil
	}
	return s.bytes.MarshalText()
}
