package walker

const machine = 183 // EM_AARCH64
