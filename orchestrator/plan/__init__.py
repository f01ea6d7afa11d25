"""Planning, pure: grid -> cells -> stages -> trials."""
