package pid

import "github.com/nslab/nslab/course"

// zh is what the steps and the errors say, in Chinese.
func zh() course.Messages {
	return course.Messages{
		// what every step may say
		"inode of /proc/%s/ns/%s: %s; the host's: %s": "/proc/%s/ns/%s 的 inode：%s；宿主机：%s",
		"its %s namespace is not the host's":          "它的 %s 命名空间与宿主机不同",

		// clone
		"the process asks getpid() and gets %s":              "进程调用 getpid()，得到 %s",
		"/proc/%s/status out here says NSpid: %s":            "在外面看，/proc/%s/status 里 NSpid 为 %s",
		"inside it is PID 1":                                 "在里面它是 1 号进程",
		"the kernel lists both numbers for the same process": "内核为同一个进程列出了两个编号",

		// ordinary
		"process %s is in the host's /proc like any other; its parent is nslab, process %s": "进程 %s 和其他进程一样列在宿主机的 /proc 里，父进程是 nslab（%s）",
		"the host knows it as a child of nslab":                                             "宿主机知道它是 nslab 的子进程",
		"the host stops PID 1 of the box as it stops any process: State: %s":                "宿主机可以像对待任何进程一样让盒子里的 PID 1 停下：State: %s",
		"the host's signal has stopped it":                                                  "宿主机发来的信号让它停住了",
		"and another one has let it go on":                                                  "再发一个信号，它又继续运行",

		// wrong-proc
		"inside, /proc/self → %s, though getpid() is %s":        "在里面，/proc/self → %s，而 getpid() 是 %s",
		"inside, /proc lists %s processes; the host's lists %s": "在里面，/proc 列出 %s 个进程；宿主机的 /proc 列出 %s 个",
		"its /proc calls it by the host's number":               "它看到的 /proc 用的是宿主机的编号",
		"it still sees the processes of the host":               "它仍然看得见宿主机的进程",

		// own-proc
		"inside, /proc/self → %s": "在里面，/proc/self → %s",
		"the box's /proc, read from outside through /proc/%s/root/proc, lists: %s": "从外面经 /proc/%s/root/proc 读盒子的 /proc，列出的进程：%s",
		"the host's /proc lists %s processes, as before":                           "宿主机的 /proc 仍列出 %s 个进程",
		"/proc and getpid() agree now":                                             "/proc 与 getpid() 一致了",
		"it is the only process it can see":                                        "它只看得见自己",
		"the host's /proc is untouched":                                            "宿主机的 /proc 没有变化",

		// siblings
		"%s: NSpid %s, pid:[%s]":                            "%s：NSpid %s，pid:[%s]",
		"%s is PID 1 of its own namespace":                  "%s 是自己命名空间里的 1 号进程",
		"they are two namespaces":                           "这是两个不同的命名空间",
		"A asks for process %s, B's number on the host: %s": "A 用 B 在宿主机上的编号 %s 去找它：%s",
		"for A, B does not exist":                           "对 A 来说，B 不存在",
		"for the host, B does exist":                        "对宿主机来说，B 存在",

		// uts
		"uname() in the box: %s; on the host: %s": "uname() 在盒子里得到 %s，在宿主机上得到 %s",
		"the box has its new name":                "盒子有了新名字",
		"the host keeps its own":                  "宿主机的名字不变",

		// ipc
		"/proc/sysvipc/shm lists %s segment in the box, %s in a second box, %s on the host": "/proc/sysvipc/shm 列出的共享内存段：盒子里 %s 个，另一个盒子里 %s 个，宿主机上 %s 个",
		"the box has its segment":        "盒子里有它创建的段",
		"another IPC namespace has none": "另一个 IPC 命名空间里没有",
		"the host has as many as before": "宿主机上的数量和之前一样",

		// net
		"/proc/%s/net/dev: %s; the host's: %s":           "/proc/%s/net/dev：%s；宿主机：%s",
		"lo is %s, and the routing table has %s entries": "lo 的状态为 %s，路由表有 %s 条",
		"its only device is lo":                          "唯一的网卡是 lo",
		"which is down: not even 127.0.0.1 answers":      "而且没有启用：连 127.0.0.1 都不通",

		// user
		"getuid() in the box: %s; /proc/%s/status out here: Uid %s":                                     "盒子里 getuid() 得到 %s；外面的 /proc/%s/status 显示 Uid %s",
		"/proc/%s/uid_map: %s (inside, outside, how many)":                                              "/proc/%s/uid_map：%s（里面、外面、个数）",
		"you are an ordinary user, so nslab itself sits in a user namespace already: its uid_map is %s": "你是普通用户，nslab 自身已经在一个用户命名空间里，它的 uid_map 是 %s",
		"it is root inside":              "在里面它是 root",
		"and the user we mapped outside": "在外面是我们映射的那个用户",
		"its effective capabilities are %s, yet the host's name is not its to set: %s": "它的有效 capability 是 %s，却无权修改宿主机的主机名：%s",
		"it holds capabilities inside":                       "它在里面拥有 capability",
		"they count for nothing in the host's UTS namespace": "在宿主机的 UTS 命名空间里，这些 capability 毫无作用",

		// time
		"/proc/%s/timens_offsets: %s":                     "/proc/%s/timens_offsets：%s",
		"up for %s in the box, for %s on the host":        "开机至今：盒子里 %s，宿主机 %s",
		"the date: %s in the box, %s on the host":         "当前日期：盒子里 %s，宿主机 %s",
		"the box has been up a day longer":                "盒子“开机”早了一天",
		"the wall clock is the same: it has no namespace": "日期时钟相同：它没有命名空间",

		// cgroup
		"/proc/self/cgroup in the box: %s":                                                      "盒子里的 /proc/self/cgroup：%s",
		"/proc/%s/cgroup on the host: %s":                                                       "宿主机上的 /proc/%s/cgroup：%s",
		"inside, its group is the root of the tree":                                             "在里面，它所在的组就是树根",
		"no group can be made here without more rights, so the two paths happen to be the same": "此处权限不足，无法创建控制组，所以两条路径恰好相同",
		"the host sees where it really is":                                                      "宿主机看得到它真正的位置",

		// pid1-dies
		"in the namespace, by their numbers on the host: %s": "命名空间里的进程（宿主机编号）：%s",
		"PID 1 has two children":                             "PID 1 有两个子进程",
		"one signal to PID 1 later: %s":                      "给 PID 1 发一个信号之后：%s",
		"the kernel has killed the others too":               "内核把其余进程也杀死了",

		// zombies
		"process %s lost its parent; the kernel made PID 1 of the box its parent: PPid %s": "进程 %s 失去了父进程，内核让盒子里的 PID 1 成为它的父进程：PPid %s",
		"the orphan is now a child of PID 1":                                               "孤儿进程成了 PID 1 的子进程",
		"it has ended, and is still in the process table: State: %s":                       "它已经结束，却还留在进程表里：State: %s",
		"nobody has waited for it, so it stays as a zombie":                                "没有人等待它，于是它成了僵尸",

		// signals
		"sleep outside a PID namespace has no handler for SIGTERM: the default action kills it": "在 PID 命名空间之外，sleep 没有处理 SIGTERM，按默认动作被杀死",
		"an ordinary sleep dies of SIGTERM":                                                     "普通的 sleep 收到 SIGTERM 就退出",
		"the same sleep as PID 1 catches nothing either (SigCgt %s), and lives on":              "同一个 sleep 作为 PID 1，同样没有处理任何信号（SigCgt %s），却活了下来",
		"as PID 1 it ignores the same SIGTERM":                                                  "作为 PID 1，它不理会同样的 SIGTERM",
		"SIGKILL from outside ends it":                                                          "从外面发 SIGKILL 才能结束它",

		// init
		"process %s, the init, is PID 1; the program has the number %s":             "1 号进程是 init（%s），用户程序的编号是 %s",
		"the orphan, process %s, has ended: in the process table it is %s":          "孤儿进程 %s 已经结束，进程表里的状态：%s",
		"the init has waited for it: no zombie":                                     "init 回收了它，没有僵尸",
		"SIGTERM went to the init, which passed it on to sleep, and exited with %s": "SIGTERM 发给 init，由它转给 sleep，然后以 %s 退出",
		"the exit status tells which signal: 128 + 15":                              "退出状态说明了是哪个信号：128 + 15",

		// errors
		"nslab has CAP_SYS_ADMIN, or makes a user namespace first": "nslab 拥有 CAP_SYS_ADMIN，或者先创建用户命名空间",
		"run nslab as root":                               "以 root 身份运行 nslab",
		"unprivileged user namespaces are allowed":        "允许普通用户创建用户命名空间",
		"AppArmor does not restrict user namespaces":      "AppArmor 没有限制用户命名空间",
		"the limit on namespaces of this kind is above 0": "该类命名空间的数量上限大于 0",
		"the kernel was built with this namespace":        "内核编译时启用了该命名空间",
		"boot a kernel that has it":                       "换用启用了它的内核",

		"as root: sysctl -w kernel.unprivileged_userns_clone=1":             "以 root 执行：sysctl -w kernel.unprivileged_userns_clone=1",
		"as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0": "以 root 执行：sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
	}
}
