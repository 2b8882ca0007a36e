package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// noHugePageLimit is from where on a limit is none: the kernel writes one as the
// largest number of its pages.
const noHugePageLimit = 1 << 60

// PodHugePages are the limits for huge pages, in bytes, of the cgroup above the
// one that a container's specification names: the kubelet sets them for the pod
// as a whole. The keys are sizes of pages in the kernel's words, such as "2MB".
func PodHugePages(cgroupsPath string) (map[string]uint64, error) {
	path, err := cgroupPath(cgroupsPath)
	if err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	v1, v2, err := cgroupMounts(f)
	if err != nil {
		return nil, err
	}
	limits, err := hugePageLimits(append(v1, v2...), filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("huge pages of the pod of cgroup %s: %w", path, err)
	}
	return limits, nil
}

// hugePageLimits reads those of one cgroup. In a hybrid layout the controller may
// be in the hierarchy of version 2 though others are not.
func hugePageLimits(roots []string, path string) (map[string]uint64, error) {
	limits := map[string]uint64{}
	for _, root := range roots {
		for _, suffix := range []string{".max", ".limit_in_bytes"} {
			files, err := filepath.Glob(filepath.Join(root, path, "hugetlb.*B"+suffix))
			if err != nil {
				return nil, err
			}
			for _, file := range files {
				data, err := os.ReadFile(file)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil {
					return nil, err
				}
				n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
				if err != nil || n >= noHugePageLimit { // "max"
					continue
				}
				size := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "hugetlb."), suffix)
				limits[size] = n
			}
		}
	}
	return limits, nil
}
