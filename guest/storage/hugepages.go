package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/guest/mount"
)

// hugePages is where the kernel tells how many pages are set aside, by their size.
var hugePages = "/sys/kernel/mm/hugepages"

// hugePagesLock makes changes of that number one after another: the kernel is
// told the sum of all volumes.
var hugePagesLock sync.Mutex

// reserveHugePages makes the kernel set aside as many pages as the storage needs,
// beside those of others, until the storage goes.
func (j *job) reserveHugePages() error {
	options := strings.Split(strings.Join(j.st.GetOptions(), ","), ",")
	page, err1 := sizeOption(options, "pagesize")
	size, err2 := sizeOption(options, "size")
	if err1 != nil || err2 != nil || page == 0 {
		return fmt.Errorf("huge pages need the options pagesize= and size=, not %q: %w", j.st.GetOptions(), errdefs.ErrInvalidArgument)
	}
	file := filepath.Join(hugePages, fmt.Sprintf("hugepages-%dkB", page>>10), "nr_hugepages")
	want := int64((size + page - 1) / page)
	got, err := addHugePages(file, want)
	if err == nil && got < want {
		err = fmt.Errorf("Only allocated %d of %d huge pages of %d bytes: %w", got, want, page, errdefs.ErrResourceExhausted)
	}
	if err != nil {
		_, back := addHugePages(file, -got)
		return errors.Join(fmt.Errorf("reserve %d huge pages of %d bytes: %w", want, page, err), back)
	}
	j.undo.Add(func(context.Context) error {
		_, err := addHugePages(file, -want)
		return err
	})
	return nil
}

// addHugePages changes the number of pages that are set aside and says by how
// many it has changed: memory may be too scattered for all.
func addHugePages(file string, n int64) (int64, error) {
	hugePagesLock.Lock()
	defer hugePagesLock.Unlock()
	before, err := readNumber(file)
	if err != nil {
		return 0, err
	}
	if err = os.WriteFile(file, []byte(strconv.FormatInt(max(before+n, 0), 10)), 0); err != nil {
		return 0, err
	}
	after, err := readNumber(file)
	return after - before, err
}

func readNumber(file string) (int64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}

// sizeOption reads "name=<number>[k|M|G]".
func sizeOption(options []string, name string) (uint64, error) {
	v, ok := mount.Option(options, name)
	if !ok {
		return 0, errdefs.ErrNotFound
	}
	shift := 0
	if i := strings.IndexAny(v, "kKmMgG"); i >= 0 {
		shift = map[byte]int{'k': 10, 'm': 20, 'g': 30}[v[i]|0x20]
		v = v[:i]
	}
	n, err := strconv.ParseUint(v, 10, 64)
	return n << shift, err
}
