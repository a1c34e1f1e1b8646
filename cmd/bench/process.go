package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processes are what a proxy consists of: the ones given, and all that descend
// from them.
type processes []int

func (roots processes) all() []int {
	if len(roots) == 0 {
		return nil
	}
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		if pid, err := strconv.Atoi(strings.Split(path, "/")[2]); err == nil {
			if fields := stat(pid); len(fields) > 1 {
				if parent, err := strconv.Atoi(fields[1]); err == nil {
					children[parent] = append(children[parent], pid)
				}
			}
		}
	}
	found := slices.Clone(roots)
	for i := 0; i < len(found); i++ {
		for _, child := range children[found[i]] {
			if !slices.Contains(found, child) {
				found = append(found, child)
			}
		}
	}
	return found
}

// stat is the fields of /proc/PID/stat from the state on, which is the third.
func stat(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil // it has gone
	}
	name := bytes.LastIndexByte(text, ')') // which may hold anything else
	return strings.Fields(string(text[name+1:]))
}

// processor is the processor time that they have used, to the nanosecond, and
// that their children have who are dead and waited for, in ticks of 10 ms.
func (roots processes) processor() time.Duration {
	var sum time.Duration
	for _, pid := range roots.all() {
		var used unix.Timespec
		// The processor-time clock of another process: its id is made by the
		// rule of clock_getcpuclockid(3).
		if err := unix.ClockGettime(int32(^pid<<3|2), &used); err == nil {
			sum += time.Duration(used.Nano())
		}
		if fields := stat(pid); len(fields) > 14 {
			for _, field := range fields[13:15] { // cutime, cstime
				ticks, _ := strconv.ParseInt(field, 10, 64)
				sum += time.Duration(ticks) * 10 * time.Millisecond
			}
		}
	}
	return sum
}

// footprint is what a proxy holds at one moment.
type footprint struct {
	pss         float64 // KiB: its memory, what it shares with others in proportion
	own         float64 // KiB: of that what is no file's, as its program is
	kernel      float64 // KiB: of the whole machine, for sockets, stacks and page tables
	descriptors float64
}

func (roots processes) footprint() (f footprint) {
	for _, pid := range roots.all() {
		rollup := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
		f.pss += kib(rollup, "Pss")
		f.own += kib(rollup, "Pss_Anon", "Pss_Shmem")
		if open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err == nil {
			f.descriptors += float64(len(open))
		}
	}
	f.kernel = kib("/proc/meminfo", "Slab", "KernelStack", "PageTables")
	return f
}

// kib sums lines of the form "Key: 12 kB".
func kib(path string, keys ...string) (sum float64) {
	file, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		key, value, ok := strings.Cut(lines.Text(), ":")
		if ok && slices.Contains(keys, key) {
			n, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			sum += n
		}
	}
	return sum
}

// listening finds the processes that listen on a TCP address of this machine,
// as far as the caller may see them.
func listening(address string) (found processes) {
	_, port, err := net.SplitHostPort(address)
	n, err2 := strconv.ParseUint(port, 10, 16)
	if err != nil || err2 != nil {
		return nil
	}
	sockets := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, _ := os.ReadFile(table)
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) > 9 && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", n)) && fields[3] == "0A" { // LISTEN
				sockets["socket:["+fields[9]+"]"] = true
			}
		}
	}
	if len(sockets) == 0 { // as while a proxy starts
		return nil
	}
	descriptors, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, path := range descriptors {
		if to, err := os.Readlink(path); err == nil && sockets[to] {
			if pid, err := strconv.Atoi(strings.Split(path, "/")[2]); err == nil && !slices.Contains(found, pid) {
				found = append(found, pid)
			}
		}
	}
	return found
}
