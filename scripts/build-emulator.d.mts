export const emulatorLibrary: string
export const caseRunner: string
export function buildEmulator(options?: { compiler?: string }): Promise<void>
