package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/test/cluster"
)

// Pods one after another leave nothing: start checks everything that has a
// name, and here the daemons' descriptors are counted.
func TestManyPodsOneAfterAnother(t *testing.T) {
	c := start(t)
	cycle(t, c, "warm-up") // what is opened once and kept is open now
	before, err := c.OpenFiles()
	check(t, err)
	const pods = 20
	for i := range pods {
		cycle(t, c, fmt.Sprint("pod-", i))
	}
	eventually(t, "the daemons have as many open files as before", func() bool {
		after, err := c.OpenFiles()
		if err != nil {
			return false
		}
		for name, n := range after {
			if n > before[name]+2 { // connections of clients come and go
				t.Logf("%s: %d open files, %d before", name, n, before[name])
				return false
			}
		}
		return true
	})
}

// TestSoak goes on for the time that KATA_CC_SOAK names.
func TestSoak(t *testing.T) {
	limit, err := time.ParseDuration(os.Getenv("KATA_CC_SOAK"))
	if err != nil {
		t.Skip("needs KATA_CC_SOAK, such as 30m (make soak)")
	}
	c := start(t)
	for began, n := time.Now(), 0; time.Since(began) < limit; n++ {
		cycle(t, c, fmt.Sprint("soak-", n))
		files, err := c.OpenFiles()
		check(t, err)
		t.Logf("pod %d after %s: open files %v", n, time.Since(began).Round(time.Second), files)
	}
}

// cycle runs a pod from its start to its removal and checks what it left.
func cycle(t *testing.T, c *cluster.Cluster, name string) {
	t.Helper()
	before, err := c.Census()
	check(t, err)
	p := runPod(t, c, name)
	id := p.run(cluster.Container{Name: "main"})
	if out := p.exec(id, "echo", name); out != name+"\n" {
		t.Errorf("echo %s: %q", name, out)
	}
	p.remove()
	left, err := c.AwaitGone(t.Context(), before)
	check(t, err)
	if len(left) > 0 {
		t.Fatalf("pod %s left behind:\n%s", name, left)
	}
}
