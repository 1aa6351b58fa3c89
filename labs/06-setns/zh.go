package setns

import "github.com/nslab/nslab/course"

// zh is what the steps and the errors say, in Chinese.
func zh() course.Messages {
	return course.Messages{
		// files
		"/proc/%s/ns/%s → %s · ours: %s":                            "/proc/%s/ns/%s → %s · 我们的：%s",
		"five namespaces are the container's own":                   "有五个命名空间是容器自己的",
		"the others are ours as well":                               "其余的和我们共用",
		"the number in the link is the inode of the file behind it": "链接里的编号就是它背后那个文件的 inode",

		// net
		"interfaces out here, in /proc/net/dev: %s":                             "外面的网卡（/proc/net/dev）：%s",
		"what the program in the container's network reads there: %s":           "进入容器网络的程序在那里读到：%s",
		"/proc/%s/net/dev, the program's, read from outside: %s":                "从外面读这个程序的 /proc/%s/net/dev：%s",
		"/proc/%s/ns/net → %s · the container's: %s · ours: %s":                 "/proc/%s/ns/net → %s · 容器的：%s · 我们的：%s",
		"out here there is nothing but %s either, so they are not fewer":        "外面也只有 %s，所以没有变少",
		"its interfaces are the container's":                                    "它的网卡就是容器的网卡",
		"and that is what the program itself sees":                              "程序自己看到的也是这些",
		"they are fewer than out here":                                          "比外面的少",
		"the kernel has the same inode for both: it is one namespace":           "两者在内核里是同一个 inode：就是同一个命名空间",
		"all its other namespaces are still ours":                               "其余的命名空间仍然是我们的",
		"in common with the container: %s; not in common: %s":                   "与容器共用：%s；不共用：%s",
		"the program says that its number is %s and its host's name %s":         "程序说自己的编号是 %s，主机名是 %s",
		"out here: NSpid %s, and its parent is process %s: nslab":               "在外面看：NSpid %s，父进程是 %s，也就是 nslab",
		"the container's own /proc, read through /proc/%s/root/proc, lists: %s": "容器自己的 /proc（经由 /proc/%s/root/proc 读取）列出：%s",
		"every namespace of the container is the program's":                     "容器的每个命名空间，程序都进去了",
		"so it finds the container's host name":                                 "所以它看到的是容器的主机名",
		"it has a number in the container, and one out here":                    "它在容器里有一个编号，在外面有一个",
		"the container sees it come":                                            "容器看得到它进来",
		"yet it is nslab's child, not the container's":                          "但它是 nslab 的子进程，不是容器的",

		// threads
		"/proc/%s/status, which is nslab: Threads: %s":                        "nslab 自己的 /proc/%s/status：Threads: %s",
		"nslab itself enters the %s namespace: %s":                            "由 nslab 自己进入 %s 命名空间：%s",
		"a thread of several may not have a user namespace of its own":        "多个线程中的一个，不能单独换用户命名空间",
		"nor a mount namespace, with a root that the others share":            "也不能单独换挂载命名空间，因为根目录是各线程共用的",
		"the child with one thread enters both: %s · the container's: %s":     "只有一个线程的子进程两个都进去了：%s · 容器的：%s",
		"its uid_map: %s; its user, seen from out here: %s":                   "它的 uid_map：%s；从外面看，它的用户是：%s",
		"nslab itself is still in its own user namespace":                     "nslab 自己仍在原来的用户命名空间里",
		"the child is in all namespaces of the container, user and mount too": "子进程进入了容器的全部命名空间，用户和挂载也在内",
		"and is its root, which out here is the user it was mapped to":        "它在里面是 root，在外面是映射到的那个用户",

		// children
		"the caller, process %s: ns/pid → %s, NSpid %s":             "调用者，进程 %s：ns/pid → %s，NSpid %s",
		"its ns/pid_for_children → %s; the container's ns/pid → %s": "它的 ns/pid_for_children → %s；容器的 ns/pid → %s",
		"its child, process %s: ns/pid → %s, NSpid %s":              "它的子进程 %s：ns/pid → %s，NSpid %s",
		"the caller has stayed where it was, with its number":       "调用者留在原处，编号没有变",
		"only its children are meant":                               "改变的只是它的子进程",
		"the child is born in the container's PID namespace":        "子进程出生在容器的 PID 命名空间里",
		"and has one number more than its parent":                   "它比父进程多一个编号",

		// wrong-ps
		"PID namespace only: getpid() is %s, but /proc/self is %s, and /proc lists %s processes": "只进入 PID 命名空间：getpid() 是 %s，/proc/self 却是 %s，/proc 里有 %s 个进程",
		"it is in the container's PID namespace":                                                 "它确实在容器的 PID 命名空间里",
		"its /proc calls it by its number out here":                                              "它看到的 /proc 用的是外面的编号",
		"and shows it the host's processes, which it cannot name":                                "还列出了宿主机的进程，而它无法指称这些进程",
		"with the mount namespace: getpid() is %s, /proc/self is %s, and /proc lists %s":         "连挂载命名空间一起：getpid() 是 %s，/proc/self 是 %s，/proc 列出 %s",
		"with both, /proc and getpid() agree":                                                    "两个都进入，/proc 与 getpid() 就一致了",
		"and nobody but the container's is to be seen":                                           "看到的只有容器里的进程",

		// root
		"/proc/%s/root, the container's: %s":                   "/proc/%s/root，容器的：%s",
		"/proc/%s/root, with the mount namespace only: %s":     "/proc/%s/root，只进入挂载命名空间：%s",
		"/proc/%s/root, with its root as well: %s":             "/proc/%s/root，同时取它的根目录：%s",
		"both programs are in the container's mount namespace": "两个程序都在容器的挂载命名空间里",
		"but the one stands above the container's root":        "但其中一个站在容器根目录的上面",
		"the other has the root that the container has":        "另一个的根目录与容器相同",

		// cwd
		"working folder %s: %s":                                       "工作目录 %s：%s",
		"in the container's PID namespace afterwards: %s":             "此后容器的 PID 命名空间里有：%s",
		"chdir itself was allowed: the name led to the host's folder": "chdir 本身是成功的：这个名字通向宿主机的目录",
		"the check has found that it lies outside of the root":        "检查发现它在根目录之外",
		"and no program was started":                                  "所以没有启动任何程序",
		"working folder /proc: /proc/%s/cwd → %s":                     "工作目录 /proc：/proc/%s/cwd → %s",
		"a folder of the container is accepted":                       "容器里的目录则可以",

		// exec
		"no control group can be made here, so that part is left out: %s": "这里无法创建控制组，这一部分略过：%s",
		"root and working folder: %s and %s; the container's: %s and %s":  "根目录和工作目录：%s 和 %s；容器的：%s 和 %s",
		"root and working folder are the container's":                     "根目录和工作目录都是容器的",
		"members of the control group %s: %s":                             "控制组 %s 的成员：%s",
		"the program counts against the container's limits":               "程序计入容器的限额",

		// kept
		"processes in %s: %s; mounts of it: %s":                                   "%s 里的进程：%s；对它的挂载：%s",
		"no process is left in the namespace":                                     "这个命名空间里已经没有进程",
		"/proc/%s/ns/net, of a program that entered through the file → %s":        "经由文件进入的程序，/proc/%s/ns/net → %s",
		"it is in the namespace whose process has gone":                           "它进入了那个进程早已离开的命名空间",
		"after the umount: processes in it: %s; mounts of it: %s":                 "卸载之后：里面的进程：%s；对它的挂载：%s",
		"nothing holds the namespace any more: the kernel has dissolved it":       "再没有什么抓着它，内核已将它销毁",
		"entering through the file: %s":                                           "经由这个文件进入：%s",
		"the file is an ordinary empty one again":                                 "它又是一个普通的空文件了",
		"root of a user namespace enters our UTS namespace: %s":                   "某个用户命名空间的 root 进入我们的 UTS 命名空间：%s",
		"who is root only inside has no rights over a namespace of the outside":   "只在里面是 root，对外面的命名空间没有权限",
		"PID 1 of a PID namespace, with all rights, enters the one beside it: %s": "PID 命名空间里的 PID 1，权限齐全，要进入旁边的那一个：%s",
		"from a PID namespace one gets only into those below it":                  "从一个 PID 命名空间只能进入它下级的",
		"a process that has ended: %s":                                            "已经结束的进程：%s",
		"a number alone is nothing to hold on to":                                 "光有编号，什么也抓不住",

		// errors
		"the process exists": "进程存在",
		"take a number that ps shows; a process that has ended has no namespaces":   "请用 ps 里有的编号；已经结束的进程没有命名空间",
		"nslab has CAP_SYS_ADMIN in its own user namespace":                         "nslab 在自己的用户命名空间里有 CAP_SYS_ADMIN",
		"run nslab as root, or enter a user namespace of yours as well (--user)":    "以 root 运行 nslab，或者同时进入属于你的用户命名空间（--user）",
		"and CAP_SYS_CHROOT, which a mount namespace takes too":                     "还有 CAP_SYS_CHROOT，进入挂载命名空间也需要它",
		"give nslab CAP_SYS_CHROOT":                                                 "赋予 nslab CAP_SYS_CHROOT",
		"nslab may look into the process, as a debugger would":                      "nslab 有权像调试器那样查看这个进程",
		"run nslab as root, or as the user whose process it is":                     "以 root 运行 nslab，或者以该进程的用户运行",
		"the namespace belongs to nslab's user namespace, or to one below it":       "该命名空间属于 nslab 的用户命名空间，或属于它的下级",
		"enter it from the user namespace that made it, or from one above":          "从创建它的用户命名空间，或者从更上级进入",
		"the caller has one thread, with root and working folder of its own":        "调用者只有一个线程，根目录和工作目录也不与别人共用",
		"let a child with one thread enter it, as setns.Start does":                 "让只有一个线程的子进程去进入，setns.Start 就是这样做的",
		"it is another user namespace than nslab's own":                             "它不是 nslab 自己所在的用户命名空间",
		"leave it out: nslab is in it":                                              "不必进入：nslab 已经在里面",
		"the PID namespace is nslab's own, or one below it":                         "该 PID 命名空间是 nslab 自己的，或是它的下级",
		"enter it from outside: nobody can climb out of a PID namespace":            "从外面进入：谁也不能从 PID 命名空间里爬出来",
		"the file lies in nsfs, the file system of namespaces":                      "文件位于 nsfs，即命名空间的文件系统",
		"name a file in /proc/PID/ns, or a bind mount of one that is still mounted": "请给出 /proc/PID/ns 下的文件，或者仍然挂载着的绑定挂载",
	}
}
